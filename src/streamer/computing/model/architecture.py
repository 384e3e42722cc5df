"""What TransformerLens knows of a model before any weight of it is read."""

import contextlib
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch._subclasses import FakeTensorMode
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from streamer.computing.model.find import first_line
from streamer.computing.model.hook_names import names_of
from streamer.computing.model.identity import ModelIdentity, identity_of
from streamer.computing.model.text_part import model_part
from streamer.computing.model.tokenizer import ModelTokenizer, read_tokenizer, stand_in
from streamer.config import RunConfig
from streamer.errors import UsageError


@dataclass(frozen=True, slots=True)
class Tap:
    """Where in the stack of decoder layers a hook reads."""

    layer: int
    """The input of layer 0, or the output of any layer."""
    is_input: bool


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's shape, tokenizer and hooks."""

    path: str
    identity: ModelIdentity
    revision: str | None
    """The hub's branch, tag or commit that was asked for."""
    tokenizer: ModelTokenizer
    context: int
    """Most tokens of a passage: what the model takes, or less where longer ones change others."""
    context_note: str
    """Why it is shorter than the model's own, empty where it is not."""
    d_model: int
    n_layers: int
    hook_names: tuple[str, ...]
    """As asked for, a layer each."""
    hook_aliases: tuple[frozenset[str], ...]
    """All names that each is known by: see `hook_names`."""
    taps: tuple[Tap, ...] | None
    """The same in the stack of decoder layers; None if one of them reads inside a layer."""
    layers_path: str
    """Where TransformerLens' adapter finds the decoder layers in Hugging Face's model."""


def read_architecture(path: str, config: RunConfig) -> Architecture:
    """What the model at `path` is, and whether it has the configured hooks.

    :raises UsageError: it lacks a tokenizer, layer or hook, or TransformerLens cannot boot it.
    """
    try:
        with quiet():
            tokenizer = read_tokenizer(
                path, config.revision, trust_remote_code=config.trust_remote_code
            )
        part = model_part(
            path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
        require_adapter(path, part.config)
        with quiet(), FakeTensorMode():  # shapes without numbers; adapters split fake weights, too
            whole = None if part.is_whole else AutoModelForCausalLM.from_config(part.config)
            bridge = TransformerBridge.boot_transformers(
                path,
                device="cpu",
                load_weights=False,
                hf_model=whole,
                trust_remote_code=config.trust_remote_code,
                revision=config.revision,
                tokenizer=stand_in(),
            )
    except UsageError:
        raise
    except Exception as error:  # whatever a damaged or strange model makes of the libraries
        raise cannot_load(path, error) from error
    names = _hook_names(bridge, config, path)
    taps = tuple(_tap(str(bridge.hook_dict[name].name)) for name in names)
    real = [tap for tap in taps if tap is not None]
    context, context_note = _context(bridge)
    return Architecture(
        path=path,
        identity=identity_of(bridge, config, path),
        revision=config.revision,
        tokenizer=tokenizer,
        context=context,
        context_note=context_note,
        d_model=int(bridge.cfg.d_model),
        n_layers=int(bridge.cfg.n_layers),
        hook_names=tuple(names),
        hook_aliases=tuple(names_of(bridge, name) for name in names),
        taps=tuple(real) if len(real) == len(taps) else None,
        layers_path=str(bridge.adapter.component_mapping["blocks"].name),
    )


def require_adapter(path: str, config: Any) -> None:
    """Return if TransformerLens has an adapter for models of this `config`.

    :raises UsageError: it has none.
    """
    try:
        determine_architecture_from_hf_config(config)
    except ValueError:
        kind = ", ".join(config.architectures or [config.model_type])
        raise UsageError(
            f"cannot load the model {path}: TransformerLens has no adapter for {kind}. Choose a "
            f"model of another kind, or a TransformerLens that has one."
        ) from None


def cannot_load(path: str, error: Exception) -> UsageError:
    """The error for the user when a library fails on a model."""
    return UsageError(f"cannot load the model {path}: {type(error).__name__}: {first_line(error)}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Hugging Face's progress bars and load reports, which would write over the display."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _hook_names(bridge: Any, config: RunConfig, path: str) -> list[str]:
    n_layers = int(bridge.cfg.n_layers)
    for layer in config.layers:
        if layer >= n_layers:
            raise UsageError(
                f"layer {layer} is not in the model {path}, whose layers are 0 to "
                f"{n_layers - 1}. Choose others with --layers."
            )
    names = [config.hook.replace("{layer}", str(layer)) for layer in config.layers]
    for name in names:
        if name not in bridge.hook_dict:
            near = difflib.get_close_matches(name, bridge.hook_dict, n=8, cutoff=0.5)
            raise UsageError(
                f"the model {path} has no hook {name!r}; near it are {', '.join(near) or 'none'}. "
                f"Choose one with --hook."
            )
    return names


def _tap(canonical: str) -> Tap | None:
    """A layer's input is the output of the one before."""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(in|out)", canonical)
    if found is None:
        return None
    layer, is_input = int(found[1]), found[2] == "in"
    return Tap(layer - 1, False) if is_input and layer else Tap(layer, is_input)


def _context(bridge: Any) -> tuple[int, str]:
    """The model's context, and a note where it is cut: "longrope" turns all positions of a batch
    farther once the longest passage in it is beyond what the model was first trained on."""
    context, config = int(bridge.cfg.n_ctx), bridge.original_model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    of_layer_types = [each for each in rope.values() if isinstance(each, dict)]
    lengths = [
        each["original_max_position_embeddings"]
        for each in (rope, *of_layer_types)
        if each.get("rope_type") == "longrope"
    ]
    even = min([context, *lengths])
    if even == context:
        return context, ""
    return even, (
        f"passages of at most {even:,} tokens, not {context:,}: a longer one would change the "
        f"numbers of all others in its batch (rope_type longrope in the model's config.json)"
    )
