"""How the process keeps its memory."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Have the C library reuse freed blocks rather than hand them back to the system.

    By default glibc maps every large array afresh and unmaps it when it is freed, so that each
    training step, or block of text, pays a page fault per 4 KB again: up to half of a step's time.
    Elsewhere than on Linux with glibc nothing is done. For the whole process, and harmless to
    repeat.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
