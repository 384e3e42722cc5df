"""The host's threads for many small computations, one for each core."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import torch


@functools.cache
def host_pool() -> ThreadPoolExecutor:
    """One thread for each core, none of which shares its work out to the others: what is done to a
    group of small matrices is too small for that, and threads that wait for a share spin. It is
    the process's: no other has more threads, or other settings, for it."""
    cores = torch.get_num_threads()
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
