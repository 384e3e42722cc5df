"""What a run sets for the whole process so that its numbers are right, and puts back behind it."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch

from streamer.device.cgroup import cores_in_groups
from streamer.device.pick import owned_by_this_thread
from streamer.device.pool import host_pool
from streamer.device.traits import traits_of

Settings: TypeAlias = dict[str, str | int | bool]
CUBLAS_WORKSPACE = ":4096:8"
"""What cuBLAS wants for products that come out the same each time."""


@contextlib.contextmanager
def settings_for(device: torch.device, *, deterministic: bool) -> Iterator[Settings]:
    """Sets what a run on `device` needs, and yields what holds, for the manifest. Whatever was set
    before, here or by the caller of `streamer.run`, is back afterwards.

    float32 products are float32: with what `torch.set_float32_matmul_precision` allows (TF32 on
    CUDA, bfloat16 on a CPU), or TF32 in cuDNN, they would have three digits. Operations have as
    many threads as torch was given, or as a container's limit of CPU time is worth, if that is
    less. It may be entered again within.
    """
    environment = {}
    if deterministic:
        environment["CUBLAS_WORKSPACE_CONFIG"] = CUBLAS_WORKSPACE
    if traits_of(device).is_host:
        # the model wants all cores; the loader's thread tokenizes fast enough
        environment["TOKENIZERS_PARALLELISM"] = "false"
    with (
        _environment(environment),
        _precision(),
        _determinism(deterministic),
        _threads(cores_in_groups()),
    ):
        yield {
            "float32_products": torch.get_float32_matmul_precision(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "threads": torch.get_num_threads(),
            **{name: os.environ[name] for name in environment},
        }


@contextlib.contextmanager
def in_use(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """While it is entered, this thread may compute on `device` as a run does."""
    with owned_by_this_thread(device), settings_for(device, deterministic=deterministic):
        yield


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Variables that are set already keep their value: the user has an idea of it."""
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _precision() -> Iterator[None]:
    """torch has two ways to say this, an old one for all and a new one for each library. The old
    way sets both, so that they agree, and cannot be read where the caller has set the new one."""
    products: str | None = None
    convolutions: bool | None = None
    with contextlib.suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        convolutions = torch.backends.cudnn.allow_tf32
    kept = [(library, library.fp32_precision) for library in _libraries()]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for library in _libraries():
        library.fp32_precision = "ieee"
    try:
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        for library, precision in kept:
            library.fp32_precision = precision


def _libraries() -> tuple[Any, ...]:
    """Those that may compute float32 in a shorter format."""
    backends: Any = torch.backends
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    return (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)


@contextlib.contextmanager
def _threads(most: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most or before))
    host_pool()  # made here, as that changes for a moment how many threads others begin with
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Where it is not asked for, the caller's own choice stays."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
