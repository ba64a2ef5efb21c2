"""`python -m server.tied PARENT PROGRAM ...`: becomes a program that ends when its parent does.

Not done between fork and exec: the parent has gRPC's threads, beneath which Python may hang there.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def main(parent: str, *program: str) -> None:
    """Becomes the program, unless the parent has ended already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(parent):
        os.execv(program[0], program)  # noqa: S606 (the parent's own command)


if __name__ == "__main__":
    main(*sys.argv[1:])
