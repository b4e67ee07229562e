"""How this process uses the CPU: its memory, and the threads of torch."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

# from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
INT_MAX = 2**31 - 1
# Rounds of GNU's OpenMP, about 30 µs; its own number is 300,000
SPINS = "10000"


def keep_freed_memory() -> None:
    """Let the allocator keep memory that is freed, for the next allocation.

    A network allocates and frees buffers of megabytes for each layer. By default, glibc returns
    many of them to the system, which then clears each page anew: of a hybrid's forwards, that is a
    seventh of the time (scripts/bench allocator). Other allocators are left as they are.
    """
    mallopt = c_function("mallopt")
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, INT_MAX)


def wait_without_spinning() -> None:
    """Let a thread of torch that waits for another one sleep soon. Call it before torch is loaded.

    By default it spins. Beside another busy process, it then spins while the other thread waits for
    its core: a command takes several times as long. Alone, sleeping soon costs nothing that can be
    measured (scripts/bench side). What the environment says of it stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def return_freed_memory() -> None:
    """Return memory that is freed to the system, where the allocator is glibc's."""
    malloc_trim = c_function("malloc_trim")
    if malloc_trim:
        malloc_trim(0)


def c_function(name: str) -> Callable[..., int] | None:
    """A function of the C library of this process; None if it has none of this name."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):  # TypeError on Windows
        return None
