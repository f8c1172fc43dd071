"""One client of a broker as a process.

    python -m tests.faults.client_apps KIND WHO ADDRESS DIRECTORY HISTORIES SEED KEYS

It writes its history into the file WHO of the folder HISTORIES, and ends well some time after SIGTERM.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import threading
from pathlib import Path

from tests.faults import client_readers, client_senders
from tests.faults.client_history import Recorder

KINDS = {
    function.__name__: function
    for function in (
        client_senders.librdkafka_sender,
        client_senders.aiokafka_sender,
        client_senders.aiokafka_idempotent_sender,
        client_senders.wire_idempotent_sender,
        client_senders.wire_once_sender,
        client_senders.asking_sender,
        client_senders.log_sender,
        client_readers.wire_reader,
        client_readers.log_reader,
        client_readers.librdkafka_member,
        client_readers.librdkafka_static_member,
        client_readers.aiokafka_member,
    )
}


def main() -> None:
    """Be that client."""
    kind, who, address, directory, histories, seed, keys = sys.argv[1:]
    if sys.platform == "linux":  # Nobody is left behind by a test that is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    recorder = Recorder(Path(histories) / who)
    recorder.note("begun", [kind])
    places = tuple((topic, partition) for topic, partition in json.loads(keys))
    KINDS[kind](client_senders.Client(who, address, directory, int(seed), places, recorder, stopped.is_set))


_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    main()
