"""Returns memory to the system after a graph has loaded."""

import ctypes


def trim() -> None:
    """Return glibc's free pages to the system; do nothing with other C libraries.

    While loading, a runtime parses the graph and rearranges its weights; glibc keeps the memory
    that this frees. For ViT-B-32 that is 0.2 GB for the image encoder and 0.1 GB for each text
    encoder (ONNX Runtime 1.31, 2026-11-21).
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    malloc_trim(0)
