"""Prints the hashed requirements for the Python bindings of this image's TensorRT.

Runs while the export-gpu image is built. The bindings load the image's own library, with which
Triton runs plans, so they bring no second TensorRT.
"""

import sys
from pathlib import Path

from export.tensorrt.gpus import library_version

LISTS = Path(__file__).resolve().parents[2] / "requirements" / "tensorrt"


def bindings(tensorrt: str) -> Path:
    """The requirements for a version of TensorRT (10.13.3.9), which may have a later build.

    Raises:
        LookupError: There are none.
    """
    for path in (LISTS / f"{tensorrt}.post1.txt", LISTS / f"{tensorrt}.txt"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in LISTS.glob("*.txt")))
    raise LookupError(
        f"the hashes of the bindings of TensorRT {tensorrt} are unknown: add its line to "
        f"requirements/tensorrt.in and run `make lock`; known: {known}"
    )


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{bindings(library_version())}\n")
    except LookupError as error:
        sys.exit(f"error: {error}")
