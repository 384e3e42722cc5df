"""The reference of `docs/models.md`: Hugging Face's own forward pass in float64, one text alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Pick = Callable[[tuple[Any, ...], Any], Tensor]
"""The activation [row, position, …] in what a module is given and what it returns."""


class InDouble(TorchFunctionMode):
    """Keeps numbers in float64 that Hugging Face's code would round to float32 on the way, as its
    norms and attention weights do. Rotary angles are float32 by definition, and stay that."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.dtype is torch.float64:
            if func is Tensor.float:
                return first
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


def texts() -> list[tuple[int, ...]]:
    """A dozen texts of 1 to 60 random tokens, most with a beginning in common."""
    generator = torch.Generator().manual_seed(1)

    def some(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, 4000, (n,), generator=generator).tolist())

    stem = some(30)
    branches = [stem + some(n) for n in (5, 9, 28)]
    early = [stem[:n] + some(m) for n, m in ((7, 40), (20, 35))]
    return [stem, *branches, *early, *(some(n) for n in (60, 45, 17, 3, 2, 1))]


def decoder_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """The list of `count` decoder layers in `model`; where there is another, the last."""
    lists = [each for each in model.modules() if isinstance(each, nn.ModuleList)]
    return [each for each in lists if len(each) == count][-1]


def layer_output(_: tuple[Any, ...], output: Any) -> Tensor:
    """What a module returns, without what it returns beside it."""
    activation: Tensor = output[0] if isinstance(output, tuple) else output
    return activation


def read_alone(
    model: nn.Module,
    places: Mapping[str, Sequence[tuple[nn.Module, Pick]]],
    passages: Sequence[Sequence[int]],
) -> dict[str, Float[Tensor, "layer passage *width"]]:
    """What is found at each of `places`, a module a layer, at the last token of each passage."""
    kept: dict[str, list[Tensor]] = {}

    def keep(name: str, pick: Pick) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
            given = args or tuple(kwargs.values())
            kept[name].append(pick(given, output)[0, -1])

        return hook

    handles = [
        module.register_forward_hook(keep(name, pick), with_kwargs=True)
        for name, modules in places.items()
        for module, pick in modules
    ]
    found: dict[str, list[Tensor]] = {name: [] for name in places}
    for ids in passages:
        kept.update((name, []) for name in places)
        with torch.no_grad(), InDouble():
            model(input_ids=torch.tensor([list(ids)]), use_cache=False)
        for name, layers in kept.items():
            found[name].append(torch.stack(layers))
    for handle in handles:
        handle.remove()
    return {name: torch.stack(passages, dim=1) for name, passages in found.items()}


def farthest(found: Tensor, right: Tensor) -> float:
    """How far what is `found` is from what is `right`, relative to its norm: the largest over all
    but the last axis."""
    apart = (found.double() - right).norm(dim=-1) / right.norm(dim=-1)
    return float(apart.max())
