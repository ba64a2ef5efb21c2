"""Settings of glibc's heap and of Pillow that bound the memory of decoded images."""

import ctypes

from PIL import PngImagePlugin, _imaging

ARENAS = 1
MMAP_THRESHOLD = 2 * 2**20  # bytes
TRIM_THRESHOLD = 8 * 2**20  # bytes
BLOCK = 2**20  # bytes
TEXTS = 16 * 2**20  # characters of all texts in a PNG, of up to four bytes each
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h


def pin() -> None:
    """Make freed memory go back to the system, at little cost.

    glibc gives each thread a heap of its own, and maps large blocks separately, but each time such
    a block is freed it raises the limit for that to the block's size, up to 32 MB. Decoded images
    then lie in the threads' heaps, where small blocks that live longer keep freed memory from going
    back. One heap for all threads leaves far less behind, at no cost that was measured; pinning the
    limit bounds what large images leave. Lower limits cost more: a mapped block is faulted in again
    each time. Pillow therefore keeps pixels in blocks below the limit, all of about one size, which
    successive images reuse, and 8 MiB at the heap's end stay. Without glibc only the blocks are
    set. Pillow itself would take 64 million characters of a PNG's texts, which may be compressed.
    """
    PngImagePlugin.MAX_TEXT_MEMORY = TEXTS
    _imaging.set_block_size(BLOCK)
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    set_option(_M_ARENA_MAX, ARENAS)
    set_option(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    set_option(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)
