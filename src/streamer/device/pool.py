"""The host's threads for many small computations, one for each core."""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def host_pool() -> ThreadPoolExecutor:
    """One thread for each core that torch uses, none of which shares its work out to the others:
    what is done to a group of small matrices is too small for that, and threads that wait for a
    share spin."""
    return _pool(torch.get_num_threads(), os.getpid())


@functools.cache
def _pool(cores: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    """That of `process`, for so many cores; a process that was forked has none of the threads."""
    pool = ThreadPoolExecutor(cores, "host")
    all_here = threading.Barrier(cores)

    def begin() -> None:
        torch.get_num_threads()  # the first look at it, or operation, sets it to what all have
        torch.set_num_threads(1)
        all_here.wait()

    try:
        for begun in [pool.submit(begin) for _ in range(cores)]:
            begun.result()
    finally:
        torch.set_num_threads(cores)  # what threads yet to come begin with was changed, too
    return pool
