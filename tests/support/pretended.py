"""An accelerator that is not there: tensors that say they are on it and hold their numbers on the
CPU. What a program asks of it can so be judged by the rules of the real one.

torch itself asks such a tensor for its device, so that the program takes the ways that it takes on
the accelerator. Every operation that reaches the dispatcher comes by `Pretended`, which carries it
out on the CPU and lets a `Judge` look at it before.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten: Any = torch.ops.aten
COPIES = {"aten::_to_copy", "aten::copy_"}
CHOSEN_BY_DEVICE = {"aten::scaled_dot_product_attention"}
"""Composites that ask for kernels by the kind of device, which this build of torch lacks."""
ON_CPU = {
    "aten::_scaled_dot_product_attention_math_for_mps": aten._scaled_dot_product_attention_math,
}
"""Kernels of an accelerator, and what computes the same on the CPU."""


class Judge(Protocol):
    """Says of what is asked of the accelerator whether it may be."""

    def is_whole(self, name: str) -> bool:
        """Whether the operation has a kernel of its own there, so that its parts do not matter."""

    def judge(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """:raises AssertionError: `operation` may not be asked for."""

    def result(self, operation: Any, made: Tensor) -> None:
        """:raises AssertionError: `operation` may not make such a tensor there."""


class OnDevice(Tensor):
    """A tensor on the accelerator."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "OnDevice":
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
            requires_grad=False,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor, device: torch.device) -> None: ...

    def __repr__(self) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Some methods want the guard of the real device, in C++: here they are done by parts."""
        if func in GUARDED:
            return GUARDED[func](*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():  # what is on the host stays a plain tensor
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func.name()} is asked of the accelerator by another thread")

    def record_stream(self, stream: Any) -> None:
        """The allocator would wait for `stream` before it gives the memory to others."""


class Made(TorchFunctionMode):
    """torch.tensor puts what it is given onto the accelerator in C++, past the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Pretended(TorchDispatchMode):
    """While it is entered, this thread sees an accelerator `device`."""

    def __init__(self, device: torch.device, judge: Judge) -> None:
        super().__init__()
        self.device = device
        self.judge = judge
        self.judges = True
        """Whether it does; not while a model is loaded."""
        self.pinned: list[Tensor] = []
        self.copies: list[tuple[Tensor, Tensor, Tensor]] = []
        """Under way to the host: to where, from where, and what that held when they began."""
        self.seen: set[str] = set()
        """The operations that were asked for."""

    def __enter__(self) -> "Pretended":
        self._made = Made()
        self._made.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)

    def put(self, held: Tensor) -> OnDevice:
        """`held`, on the accelerator."""
        with torch.inference_mode(False):  # views of weights must not be inference tensors
            return OnDevice(held, self.device)

    @contextlib.contextmanager
    def without_judgement(self) -> Iterator[None]:
        """For what may wait, or do what it likes."""
        self.judges, before = False, self.judges
        try:
            yield
        finally:
            self.judges = before

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the accelerator could copy it by itself."""
        return any(one.data_ptr() == _base(tensor) for one in self.pinned)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        target = kwargs.get("device")
        named = target is not None and torch.device(target).type == self.device.type
        if not named and not any(isinstance(one, OnDevice) for one in flat):
            return self._on_host(func, args, kwargs)
        name = func.name().partition(".")[0]
        if name not in CHOSEN_BY_DEVICE and not self.judge.is_whole(func.name()):
            with _within(self):
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        self.seen.add(func.name())
        if self.judges:
            self.judge.judge(func, args, kwargs)
        if name in COPIES:
            return self._copy(name, func, args, kwargs)
        if not named:
            self._refuse_mixture(func, flat)
        else:
            kwargs["device"] = torch.device("cpu")
        made = ON_CPU.get(name, func)(*tree_map(_held, args), **tree_map(_held, kwargs))
        return self._wrapped(func, args, made)

    def _on_host(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What concerns the host alone. It may pin memory."""
        if func.name() == "aten::is_pinned":
            return self.is_pinned(args[0])
        if func.name() in ("aten::_pin_memory", "aten::pin_memory"):
            self.pinned.append(args[0].clone())
            return self.pinned[-1]
        pins = kwargs.pop("pin_memory", None)
        made = func(*args, **kwargs)
        if pins:
            self.pinned.append(made)
        return made

    def _refuse_mixture(self, func: Any, flat: Sequence[Any]) -> None:
        apart = [one for one in flat if isinstance(one, Tensor) and not isinstance(one, OnDevice)]
        if any(one.dim() for one in apart) and "index" not in func.name():
            raise RuntimeError(f"{func.name()}: expected all tensors on the same device")

    def _copy(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if name == "aten::_to_copy":
            to = kwargs.pop("device", None)
            kwargs.pop("non_blocking", None)
            kwargs.pop("pin_memory", None)
            made = func(_held(args[0]), **kwargs)
            if to is None:
                to = args[0].device
            if torch.device(to).type != self.device.type:
                return made
            return self._wrapped(func, (), made)
        to, source = args[:2]
        runs_on = args[2] if len(args) > 2 else kwargs.get("non_blocking")
        if runs_on and not isinstance(to, OnDevice):
            self.copies.append((to, source.held, source.held.clone()))
            to.fill_(85)  # what it holds until the copy is there
            return to
        func(_held(to), _held(source))
        return to

    def _wrapped(self, func: Any, args: Any, made: Any) -> Any:
        """What an operation made, on the accelerator; what it wrote to stays what it was."""
        written = {id(one.held): one for one in tree_flatten(args)[0] if isinstance(one, OnDevice)}

        def wrap(one: Any) -> Any:
            if not isinstance(one, Tensor):
                return one
            if id(one) in written:
                return written[id(one)]
            if self.judges:
                self.judge.result(func, one)
            return self.put(one)

        return tree_map(wrap, made)


def _get(tensor: Tensor, index: Any) -> Tensor:
    """tensor[index]"""
    view, indices = _view(tensor, index)
    return view if not indices else aten.index.Tensor(view, indices)


def _set(tensor: Tensor, index: Any, value: Any) -> None:
    """tensor[index] = value"""
    view, indices = _view(tensor, index)
    if not isinstance(value, Tensor):
        value = torch.full((), value, dtype=tensor.dtype, device=tensor.device)
    if indices:
        aten.index_put_.default(view, indices, value.to(tensor.dtype))
    else:
        view.copy_(value)


def _view(tensor: Tensor, index: Any) -> tuple[Tensor, list[Any]]:
    """What numbers, slices, None and … make of `tensor`, and the indices that are tensors."""
    parts = index if isinstance(index, tuple) else (index,)
    dim, found = 0, list[Any]()
    for part in parts:
        if part is Ellipsis:
            behind = parts[[one is Ellipsis for one in parts].index(True) + 1 :]
            dim = tensor.dim() - sum(_width(one) for one in behind if one is not None)
        elif part is None:
            tensor, dim = tensor.unsqueeze(dim), dim + 1
        elif isinstance(part, bool):
            raise NotImplementedError("indexing with a bool")
        elif isinstance(part, int):
            tensor = aten.select.int(tensor, dim, part)
        elif isinstance(part, slice):
            if part != slice(None):
                tensor = aten.slice.Tensor(tensor, dim, part.start, part.stop, part.step or 1)
            dim += 1
        else:
            found += [None] * (dim - len(found))
            found.append(part if isinstance(part, Tensor) else torch.tensor(part))
            dim += _width(part)
    return tensor, found


def _width(part: Any) -> int:
    """How many dimensions an index takes up."""
    return part.dim() if isinstance(part, Tensor) and part.dtype == torch.bool else 1


@contextlib.contextmanager
def _within(mode: Pretended) -> Iterator[None]:
    """For the parts of an operation that came by `mode`."""
    TorchDispatchMode.__enter__(mode)
    try:
        yield
    finally:
        TorchDispatchMode.__exit__(mode, None, None, None)


def _held(one: Any) -> Any:
    return one.held if isinstance(one, OnDevice) else one


def _base(tensor: Tensor) -> int:
    """Where the storage of `tensor` begins."""
    return tensor.untyped_storage().data_ptr()


GUARDED: dict[Any, Any] = {
    Tensor.__getitem__: _get,
    Tensor.__setitem__: _set,
    Tensor.__invert__: aten.bitwise_not.default,
    Tensor.contiguous: lambda x, **_: (
        x if x.is_contiguous() else aten.clone.default(x, memory_format=torch.contiguous_format)
    ),
    Tensor.nonzero: aten.nonzero.default,
    Tensor.item: aten._local_scalar_dense.default,
    Tensor.__bool__: lambda x: bool(aten._local_scalar_dense.default(x)),
    Tensor.__int__: lambda x: int(aten._local_scalar_dense.default(x)),
    Tensor.__float__: lambda x: float(aten._local_scalar_dense.default(x)),
    Tensor.tolist: lambda x: x.to("cpu").tolist(),
}
"""What C++ does under a guard of the device, and its parts."""
