"""`python -m gateway.process.worker LISTENER PARENT WAITS`: one of several gateway processes.

LISTENER is the number of the inherited listening socket and PARENT the id of the parent process.
WAITS is 1 where the worker serves only once it is ready, else 0.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import warnings

from gateway.app import NOT_LOADED, create_app, load
from gateway.images import heap
from gateway.process.serving import serve
from gateway.settings import Settings
from gateway.telemetry.logs import logging_to_stderr

_PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


def main() -> int:
    """Serve until SIGTERM, or until the parent is gone; return the exit code."""
    try:
        listener, parent, waits = map(int, sys.argv[1:])
    except ValueError:
        sys.exit("gateway.process.worker is started by the gateway itself: use `python -m gateway`")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    os.set_inheritable(listener, False)
    heap.pin()
    warnings.filterwarnings("ignore", module="PIL")
    settings = Settings()
    with logging_to_stderr(settings.log_level, settings.log_format):
        try:
            loaded = load(settings)
        except NOT_LOADED as error:
            logger.error("a worker process cannot start: %s", error)
            return 1
        app = create_app(settings, loaded, waits_until_ready=bool(waits))
        serve(app, settings, socket.socket(fileno=listener))
    return 0


if __name__ == "__main__":
    sys.exit(main())
