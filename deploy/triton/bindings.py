"""Prints the requirement for the Python bindings of the TensorRT that this image holds.

Run while the export-gpu image is built. The bindings load the image's own library, the very one
that Triton runs plans with, so no second TensorRT comes with them.
"""

import os
import sys

from export.gpus import library_version


def requirement(tensorrt: str, cuda: str) -> str:
    """A line for pip, from the versions of TensorRT (10.13.3.9) and of CUDA (13.0.2)."""
    return f"tensorrt-cu{cuda.split('.')[0]}-bindings=={tensorrt}.*"


if __name__ == "__main__":
    sys.stdout.write(requirement(library_version(), os.environ["CUDA_VERSION"]) + "\n")
