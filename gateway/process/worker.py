"""`python -m gateway.process.worker LISTENER BEATS PARENT`: one of several gateway processes.

It takes the numbers of the listening socket and of the pipe that it beats on, which it has
inherited, and the id of its parent.
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import warnings
from pathlib import Path

from gateway.app import NOT_LOADED, create_app, load
from gateway.images import heap
from gateway.process.agreement import Agreement
from gateway.process.serving import serve
from gateway.process.workers import NOT_YET
from gateway.settings import Settings
from gateway.telemetry.logs import logging_to_stderr
from gateway.telemetry.metrics import FOLDER

_PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


def main() -> int:
    """Serves until SIGTERM, or until the parent is gone; returns the exit code."""
    try:
        listener, beats, parent = map(int, sys.argv[1:])
    except ValueError:
        sys.exit("gateway.process.worker is started by the gateway itself: use `python -m gateway`")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    for inherited in (listener, beats):
        os.set_inheritable(inherited, False)
    os.set_blocking(beats, False)

    def beat() -> None:
        with contextlib.suppress(OSError):  # the parent is gone, or too busy to listen
            os.write(beats, b".")

    heap.pin()
    warnings.filterwarnings("ignore", module="PIL")
    settings = Settings()
    with logging_to_stderr(settings.log_level, settings.log_format):
        try:
            loaded = load(settings)
        except NOT_LOADED as error:
            logger.error("a worker process cannot start: %s", error)
            return 1
        agreement = Agreement(Path(os.environ[FOLDER]))
        manifests = [model.manifest for model in loaded.models]
        if differing := agreement.differs(manifests):
            logger.error(
                "a worker process does not start before the repository holds what the others "
                "serve: %s", ", ".join(differing),
            )  # fmt: skip
            return NOT_YET
        agreement.write(manifests)
        app = create_app(settings, loaded, agrees=agreement.write)
        serve(app, settings, socket.socket(fileno=listener), beat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
