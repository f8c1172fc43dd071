"""Jobs: functions that read the retained log in batches, on a schedule, beside the agents.

job.py        what a program declares              runner.py     runs: attempts, retries, what comes after failures
runs.py       what is stored of each run           attempt.py    one call of the handler, and its commits
planning.py   which offsets a run is to read       process.py    the same in a process of its own
fires.py      which of the due times are run       pace.py       turns for the agents beside
alarm.py      waking at instants of the clock      timer.py      functions that are due and read nothing
backfill.py   the same handler over old records    control.py    commands to the worker that runs them
"""
