"""Gives memory back to the system that loading a graph has freed."""

import ctypes


def trim() -> None:
    """Returns the C library's free pages to the system; does nothing where it is not glibc.

    ONNX Runtime parses the graph and lays its weights out anew while it loads them; glibc keeps
    what is freed by that. For ViT-B-32 this is 0.2 GB of the image tower and 0.1 GB of each
    text tower, as `benchmarks/experiments/load_memory.py` shows.
    """
    try:
        give_back = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    give_back(0)
