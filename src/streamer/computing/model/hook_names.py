"""The names that an activation goes by: TransformerLens', its aliases, and those of the module in
Hugging Face's model whose output or input it is."""

import re
from collections.abc import Collection
from typing import Any

WRAPPERS = {
    "backbone",
    "base_model",
    "decoder",
    "gpt_neox",
    "language_model",
    "model",
    "transformer",
}
"""What a text model's layers may stand in: how many of these a name begins with depends on the
class that the model was loaded with."""


def names_of(bridge: Any, name: str) -> frozenset[str]:
    """All names of what TransformerLens' `bridge` reads at the hook `name`.

    The output of a layer is the input of the next, so `blocks.4.hook_resid_post` is
    `blocks.5.hook_resid_pre`, too, and `layers.4`, `layers.4.output` and `layers.5.input`.
    """
    points = _same_place(str(bridge.hook_dict[name].name))
    found = {alias for alias, hook in bridge.hook_dict.items() if hook.name in points}
    return frozenset(found.union(*(_in_hugging_face(bridge, point) for point in points)))


def is_among(name: str, names: Collection[str]) -> bool:
    """Whether `name` is one of `names`, which `names_of` has found."""
    return name in names or _bare(name) in names


def in_hugging_face(names: Collection[str]) -> str | None:
    """Which of `names`, which `names_of` has found, to tell a user of Hugging Face's module: the
    whole name of one whose output it is, if there is one."""
    theirs = [name for name in names if "hook_" not in name and not name.endswith(".output")]
    return max(
        theirs, key=lambda name: (not name.endswith(".input"), len(name), name), default=None
    )


def _same_place(point: str) -> set[str]:
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(in|out)", point)
    if found is None:
        return {point}
    layer = int(found[1])
    beside = f"blocks.{layer - 1}.hook_out" if found[2] == "in" else f"blocks.{layer + 1}.hook_in"
    return {point, beside}


def _in_hugging_face(bridge: Any, point: str) -> set[str]:
    path, _, end = point.rpartition(".")
    try:
        module = str(bridge.adapter.translate_transformer_lens_path(path))
    except ValueError:  # TransformerLens' own
        return set()
    ends = {"hook_in": (".input",), "hook_out": ("", ".output")}.get(end, ())
    return {name + suffix for name in (module, _bare(module)) for suffix in ends}


def _bare(name: str) -> str:
    """`name` without what the layers stand in: `layers.5` of `model.language_model.layers.5`."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        del parts[0]
    return ".".join(parts)
