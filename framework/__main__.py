"""`python -m framework` is the command `framework`."""

import sys

from framework.cli import main

if not sys.flags.safe_path:
    # `-m` puts the working directory first, where a user's own log.py or queue.py would hide other modules.
    sys.path.append(sys.path.pop(0))

main()
