"""From a configuration to a worker: pick the device, load the model and the SAEs onto it."""

from collections.abc import Sequence

import torch

from streamer.computing.model.find import find_model
from streamer.computing.model.language_model import (
    ROW_LENGTH,
    LanguageModel,
    load_language_model,
)
from streamer.computing.model.precision import DTYPES, sae_dtype
from streamer.computing.sae.find import find_saes
from streamer.computing.sae.load import load_saes, wants_bos
from streamer.computing.sae.noise import NoisePool
from streamer.computing.worker import Worker
from streamer.config import Kind, RunConfig, Sharing
from streamer.device.pick import pick_device
from streamer.device.settings import in_use
from streamer.errors import UsageError
from streamer.planning.packing import Packing
from streamer.records import PASSAGES
from streamer.tables import TABLES, Layout, RunTables, Table


def load_worker(config: RunConfig, kind: Kind, tables: Sequence[Table] = TABLES) -> Worker:
    """The worker of the configured device, with model and SAEs loaded, that makes rows of `tables`.

    :raises UsageError: the device, the model or an SAE is not available, or two columns have the
        same name.
    """
    device, note = pick_device(config.device)
    with in_use(device, deterministic=config.deterministic):
        worker = _load(config, device, kind, tables)
    worker.model.notes += [note] if note else []
    return worker


def _load(config: RunConfig, device: torch.device, kind: Kind, tables: Sequence[Table]) -> Worker:
    path, locations = find_model(config), find_saes(config)  # before anything large is loaded
    model = load_language_model(path, config, device)
    saes = load_saes(locations, config, model)
    dtype = DTYPES[sae_dtype(config.dtype)]
    noise = NoisePool(model.width, config.noise_std, config.seed, device, dtype)
    bos_id = model.tokenizer.bos_token_id if wants_bos(config, saes) else None
    if bos_id is None and wants_bos(config, saes):
        raise UsageError(
            f"the SAEs want passages to begin with BOS, and the tokenizer of {config.model} has "
            f"none. Set prepend_bos = false to do without."
        )
    layout = Layout(
        layers=tuple(sae.layer for sae in saes),
        passages=PASSAGES[kind],
        d_sae=tuple(sae.W_dec.shape[0] for sae in saes),
        carry=config.carry,
    )
    return Worker(
        model=model,
        saes=saes,
        noise=noise,
        tables=RunTables(tables, layout),
        bos_id=bos_id,
        packing=Packing(_sharing(config, model), ROW_LENGTH, model.context),
    )


def _sharing(config: RunConfig, model: LanguageModel) -> Sharing:
    """The configured sharing, as far as the model supports it."""
    return model.sharing if config.sharing == "trie" else config.sharing
