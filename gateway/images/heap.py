"""Settings of glibc's heap."""

import ctypes

MMAP_THRESHOLD = 256 * 2**10  # bytes
_M_MMAP_THRESHOLD = -3  # of malloc.h


def pin() -> None:
    """Makes freed large blocks go back to the system; does nothing without glibc.

    glibc maps blocks of 128 KB and more separately, but each time such a block is freed it raises
    that limit to the block's size, up to 32 MB. Decoded images then come from the threads' heaps,
    where small blocks that live longer keep freed memory from going back.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    set_option(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
