"""Jobs: functions that read the retained log in batches, on a schedule, beside the agents.

job.py        what a program declares              serving.py    by the schedule: one loop for each job
runs.py       what is stored of each run           fires.py      which of the due times are run
planning.py   which offsets a run is to read       alarm.py      waking at instants of the clock
runner.py     runs: attempts, retries, and then    due.py        what is remembered between runs
attempt.py    one call of the handler              timer.py      functions that are due and read nothing
process.py    the same in a process of its own,    commands.py   what people do with jobs
              child.py, over wire.py               control.py    sent to the worker that owns them
pace.py       turns for the agents beside          backfill.py   the same handler over old records
positions.py  what retention waits for             scratch.py    where a backfill's tables and outputs go
"""
