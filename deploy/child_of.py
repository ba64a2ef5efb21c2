"""`python -m deploy.child_of PARENT PROGRAM ...`: runs a program that ends when its parent does.

A separate program: the parent runs gRPC threads, so Python code between fork and exec may hang.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def main(parent: str, *program: str) -> None:
    """Replace this process with the program, unless the parent has ended already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(parent):
        os.execv(program[0], program)


if __name__ == "__main__":
    main(*sys.argv[1:])
