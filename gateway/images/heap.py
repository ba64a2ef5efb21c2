"""How the C library holds the memory of this process."""

import ctypes

MMAP_THRESHOLD = 256 * 2**10  # bytes
_M_MMAP_THRESHOLD = -3  # of malloc.h


def pin() -> None:
    """Has every large block go back to the system when it is freed; nothing where it is not glibc.

    glibc maps blocks of 128 KB and more by themselves, but raises that limit, up to 32 MB, to the
    size of each that is freed. From then on decoded pictures come from the heaps of the threads,
    where small blocks that live longer keep what was freed around them.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    set_option(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
