"""The transformer: loaded through TransformerLens' bridge, run only as far as it is read."""

import contextlib
import difflib
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformer_lens.model_bridge.sources.transformers import (
    determine_architecture_from_hf_config,
    get_hf_model_class_for_architecture,
)
from transformers import AutoConfig
from transformers.utils import logging

from streamer import embedded
from streamer.config import EMBEDDED, RunConfig
from streamer.errors import UsageError
from streamer.model.fingerprint import fingerprint
from streamer.model.hub import first_line, require_on_hub
from streamer.model.locations import model_path
from streamer.model.precision import DTYPES, KeepDouble


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model it is, for messages and the manifest."""

    name: str
    """As configured: a hub name or a directory."""
    aliases: frozenset[str]
    """Lower-case names under which SAE metadata may know it."""
    revision: str | None
    """The hub's commit."""
    fingerprint: str | None
    """Of a local directory's files."""


class LanguageModel:
    """A causal transformer with hooks at `hook_names` that keep one position a passage.

    It belongs to one device, and to one thread at a time.
    """

    def __init__(self, bridge: Any, identity: ModelIdentity, hook_names: Sequence[str]) -> None:
        self.identity = identity
        self.tokenizer = bridge.tokenizer
        self.context = int(bridge.cfg.n_ctx)
        self.d_model = int(bridge.cfg.d_model)
        self.n_layers = int(bridge.cfg.n_layers)
        self.hook_names = tuple(hook_names)
        self.width = self.d_model
        """Of what the hooks read."""
        self.dtype: torch.dtype = bridge.cfg.dtype
        self.device = torch.device(bridge.cfg.device)
        self._bridge = bridge
        self._captured: dict[str, Float[Tensor, "row d_model"]] = {}
        self._last: Int[Tensor, " row"] = torch.empty(0, dtype=torch.int64)
        for name in self.hook_names:
            bridge.add_hook(name, functools.partial(self._keep_last_position, name))

    def _keep_last_position(self, name: str, activation: Tensor, hook: Any) -> None:  # noqa: ARG002
        """`hook` is passed by name and unused: its own name is not always the one asked for."""
        rows = torch.arange(activation.shape[0], device=activation.device)
        self._captured[name] = activation[rows, self._last].flatten(1)
        if len(self._captured) == len(self.hook_names):
            raise StopAtLayerException(activation)  # the bridge's way to run no further: it catches

    def residuals(
        self, tokens: Int[Tensor, "row position"], lengths: Int[Tensor, " row"]
    ) -> Float[Tensor, "layer row d_model"]:
        """The hooked activation of every layer at each row's last token.

        `tokens` are right-padded rows of which the first `lengths` count; what stands behind them
        changes nothing. Runs no layer behind the last hook, and no unembedding.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        mask = (positions < lengths[:, None]).to(torch.int64)
        self._last = lengths - 1
        self._captured.clear()
        double = KeepDouble() if self.dtype == torch.float64 else contextlib.nullcontext()
        with torch.inference_mode(), double:
            self._bridge(tokens, attention_mask=mask, return_type=None)
            return torch.stack([self._captured[name] for name in self.hook_names])


def find_model(config: RunConfig) -> str:
    """The directory or hub name of the configured model.

    :raises UsageError: there is none.
    """
    path = model_path(config)
    if not Path(path).is_dir():
        require_on_hub(path, "model")
    return path


def load_language_model(path: str, config: RunConfig, device: torch.device) -> LanguageModel:
    """The model at `path` on `device`, hooked at the configured layers.

    Weights come from safetensors, and no code of the model's own is run, unless
    `trust_remote_code` allows it.

    :raises UsageError: TransformerLens cannot boot it, or it lacks a layer or the hook.
    """
    try:
        with _quiet():
            bridge = TransformerBridge.boot_transformers(
                path,
                device=str(device),
                dtype=DTYPES[config.dtype],
                trust_remote_code=config.trust_remote_code,
                model_class=_model_class(path, config.trust_remote_code),
            )
    except Exception as error:  # whatever a damaged or strange model makes of the libraries
        raise UsageError(
            f"cannot load the model {path}: {type(error).__name__}: {first_line(error)}"
        ) from error
    bridge.eval()
    # The bridge asks for attention maps and Hugging Face for a key-value cache; nobody reads them.
    bridge.original_model.config.output_attentions = False
    bridge.original_model.config.use_cache = False
    _check_tokenizer(bridge.tokenizer, path)
    names = _hook_names(bridge, config, path)
    model = LanguageModel(bridge, _identity(bridge, config.model, path), names)
    one = torch.ones(1, 1, dtype=torch.int64, device=device)
    try:
        model.width = model.residuals(one, one[0]).shape[-1]
    except Exception as error:  # a hook that has no row and position first
        raise UsageError(
            f"{', '.join(names)} cannot be read a position at a time: {first_line(error)}. Choose "
            f"another with --hook."
        ) from error
    return model


def _model_class(path: str, trust_remote_code: bool) -> Any:
    """The class that the bridge would take, made to read safetensors only."""
    if trust_remote_code:
        return None
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    real = get_hf_model_class_for_architecture(determine_architecture_from_hf_config(config))

    class SafetensorsOnly:
        @staticmethod
        def from_pretrained(name: str, **kwargs: Any) -> Any:
            return real.from_pretrained(name, use_safetensors=True, **kwargs)

    return SafetensorsOnly


def _check_tokenizer(tokenizer: Any, path: str) -> None:
    if tokenizer is None or not tokenizer.is_fast:
        raise UsageError(
            f"the model {path} has no fast tokenizer: its directory needs a tokenizer.json"
        )


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


def _identity(bridge: Any, name: str, path: str) -> ModelIdentity:
    """A hub model is known by its name; a directory by its own and by what its config.json says."""
    aliases = {embedded.NAME if name == EMBEDDED else Path(path).name}
    config = Path(path) / "config.json"
    if config.is_file():
        said = json.loads(config.read_text("utf-8")).get("_name_or_path")
        aliases |= {Path(said).name} if said else set()
    revision = getattr(bridge.original_model.config, "_commit_hash", None)
    known = frozenset(alias.lower() for alias in aliases)
    return ModelIdentity(name, known, revision, fingerprint(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Hugging Face's progress bars, which would write over the display."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
