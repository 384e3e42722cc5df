"""From a configuration to a worker: the device is picked, model and SAEs are loaded onto it."""

import os
from collections.abc import Sequence

import torch

from streamer.computing.model.find import find_model
from streamer.computing.model.language_model import (
    ROW_LENGTH,
    LanguageModel,
    load_language_model,
)
from streamer.computing.model.precision import DTYPES, pick_device, sae_dtype
from streamer.computing.sae.find import find_saes
from streamer.computing.sae.load import load_saes, wants_bos
from streamer.computing.sae.noise import NoisePool
from streamer.computing.worker import Worker
from streamer.config import Kind, RunConfig, Sharing
from streamer.errors import UsageError
from streamer.planning.packing import Packing
from streamer.tables.metrics import FAMILIES, Family


def load_worker(config: RunConfig, kind: Kind, families: Sequence[Family] = FAMILIES) -> Worker:
    """The worker of the configured device, with model and SAEs loaded.

    :raises UsageError: the device, the model or an SAE is not to be had.
    """
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    device = pick_device(config.device)
    if device.type == "cpu":  # the model wants all cores; the loader's thread tokenizes fast enough
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    path, places = find_model(config), find_saes(config)  # before anything large is loaded
    model = load_language_model(path, config, device)
    saes = load_saes(places, config, model)
    dtype = DTYPES[sae_dtype(config.dtype)]
    noise = NoisePool(model.width, config.noise_std, config.seed, device, dtype)
    bos_id = model.tokenizer.bos_token_id if wants_bos(config, saes) else None
    if bos_id is None and wants_bos(config, saes):
        raise UsageError(
            f"the SAEs want passages to begin with BOS, and the tokenizer of {config.model} has "
            f"none. Say prepend_bos = false to do without."
        )
    return Worker(
        model=model,
        saes=saes,
        noise=noise,
        kind=kind,
        families=families,
        bos_id=bos_id,
        packing=Packing(_sharing(config, model), ROW_LENGTH, model.context),
    )


def _sharing(config: RunConfig, model: LanguageModel) -> Sharing:
    """What is asked for, as far as the model takes it."""
    return model.sharing if config.sharing == "trie" else config.sharing
