"""What MPS cannot do, and what CUDA makes the host wait for."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchgen
import yaml
from torch import Tensor

from support.pretended import OnDevice, Pretended

TABLE = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
ANYWHERE = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
"""Kernels that are made of others, for any device."""


@functools.cache
def kernels() -> dict[str, set[str]]:
    """Of each of torch's operations, by name and overload: for which devices it has a kernel."""
    entries = yaml.load(TABLE.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.Loader))
    found, delegates = dict[str, set[str]](), dict[str, str]()
    for entry in entries:
        name = "aten::" + entry["func"].partition("(")[0]
        given = entry.get("dispatch") or {}
        found[name] = {one.strip() for keys in given for one in str(keys).split(",")}
        if "structured_delegate" in entry:
            delegates[name] = "aten::" + entry["structured_delegate"]
        for made in str(entry.get("autogen", "")).split(","):
            if made.strip():  # made from this one, for any device that has it
                delegates["aten::" + made.strip()] = name
                found["aten::" + made.strip()] = set()
    for name, delegate in delegates.items():
        found[name] |= found[delegate]
    return found


class MpsKernels:
    """Apple's GPU: no float64, and not every operation."""

    def is_whole(self, name: str) -> bool:
        return "MPS" in kernels().get(name, set())

    def judge(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """:raises AssertionError: it has no kernel there, or wants float64."""
        has = kernels().get(operation.name(), set())
        assert "MPS" in has or has & set(ANYWHERE), f"{operation.name()} has no kernel on MPS"
        assert kwargs.get("dtype") != torch.float64 or not _stays(args, kwargs), "MPS: float64"

    def result(self, operation: Any, made: Tensor) -> None:
        """:raises AssertionError: it is float64."""
        assert made.dtype not in (torch.float64, torch.complex128), (
            f"{operation.name()} makes {made.dtype}, which MPS does not have"
        )


def _stays(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether what is made is on the device."""
    device = kwargs.get("device")
    return device is None or torch.device(device).type != "cpu"


READ_THEIR_STATUS = ("linalg_", "_linalg_", "linalg_lu", "cholesky", "_cholesky", "lu_", "inverse")
DO_NOT = ("vector_norm", "matrix_norm", "cross", "diagonal", "solve_triangular", "_ex")


class NoWaiting:
    """CUDA, given work by a host that must not wait for it."""

    def __init__(self) -> None:
        self.mode: Pretended | None = None
        """In which it judges."""

    def is_whole(self, name: str) -> bool:  # noqa: ARG002
        """Never: its parts may wait."""
        return False

    def judge(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """:raises AssertionError: the host waits for the device until it is done."""
        name = operation.name().removeprefix("aten::")
        said = f"the host waits: {name}"
        short = name.partition(".")[0]
        if short in ("index", "index_put", "index_put_", "_index_put_impl_"):
            self._judge_indices(said, args)
        elif short in ("_to_copy", "copy_"):
            self._judge_copy(said, short, args, kwargs)
        else:
            tags = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
            assert not tags & set(operation.tags), f"{said} makes what depends on numbers"
            reads = short.startswith(READ_THEIR_STATUS) and not short.endswith(DO_NOT)
            assert not reads, f"{said} reads whether it succeeded"
            assert not any(arg is True for arg in args[2:3] if short.endswith("_ex")), said
            assert not kwargs.get("check_errors"), f"{said} reads whether it succeeded"

    def _judge_indices(self, said: str, args: Sequence[Any]) -> None:
        for index in args[1]:
            if index is None:
                continue
            assert index.dtype not in (torch.bool, torch.uint8), f"{said}: how many are true"
            assert isinstance(index, OnDevice), f"{said}: an index is copied from the host"

    def _judge_copy(
        self, said: str, short: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        assert self.mode is not None
        if short == "_to_copy":
            source, runs_on = args[0], bool(kwargs.get("non_blocking"))
            to = kwargs.get("device")
            leaves = to is not None and torch.device(to).type == "cpu"
            assert not (leaves and isinstance(source, OnDevice)), f"{said} to the host"
        else:
            to, source = args[:2]
            runs_on = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
            if not isinstance(to, OnDevice):
                assert runs_on, f"{said} to the host"
                assert self.mode.is_pinned(to), f"{said} to memory that is not pinned"
        if not isinstance(source, OnDevice):
            assert self.mode.is_pinned(source), f"{said} from memory that is not pinned"
            assert runs_on, f"{said} to the device, without non_blocking"

    def result(self, operation: Any, made: Tensor) -> None:
        """Anything may be made."""
