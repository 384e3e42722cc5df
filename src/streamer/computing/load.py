"""From a configuration to a worker: pick the device, load the model and the SAEs onto it."""

from collections.abc import Collection, Sequence

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
from streamer.computing.sae.under_noise import UnderNoise
from streamer.computing.worker import Worker
from streamer.config import Kind, RunConfig, Sharing
from streamer.device.pick import pick_device
from streamer.device.settings import in_use
from streamer.errors import UsageError
from streamer.planning.packing import Packing
from streamer.records import PASSAGES
from streamer.tables import TABLES, Layout, RunTables, Table

PADDED = 0.9
"""Which part of an embedding a vocabulary fills at least: models round it up, by a few percent."""


def load_worker(
    config: RunConfig,
    kind: Kind,
    tables: Sequence[Table] = TABLES,
    *,
    only: Collection[str] | None = None,
) -> Worker:
    """The worker of the configured device, with model and SAEs loaded, that makes rows of `tables`,
    with `only` these measurements if they are not all.

    :raises UsageError: the device, the model or an SAE is not available, or two columns have the
        same name.
    """
    device, note = pick_device(config.device)
    with in_use(device, deterministic=config.deterministic):
        worker = _load(config, device, kind, tables, only)
    worker.model.notes += [note] if note else []
    return worker


def _load(
    config: RunConfig,
    device: torch.device,
    kind: Kind,
    tables: Sequence[Table],
    only: Collection[str] | None,
) -> Worker:
    path, locations = find_model(config), find_saes(config)  # before anything large is loaded
    model = load_language_model(path, config, device)
    model.notes += _about_vocabulary(model)
    saes = load_saes(locations, config, model)
    dtype = DTYPES[sae_dtype(config.dtype)]
    pool = NoisePool(
        model.width,
        config.noise_std,
        config.seed,
        device,
        dtype,
        draws=config.noise_draws,
        scale=config.noise_scale,
    )
    layout = Layout(
        layers=tuple(sae.layer for sae in saes),
        passages=PASSAGES[kind],
        d_sae=tuple(sae.W_dec.shape[0] for sae in saes),
        carry=config.carry,
        only=only,
    )
    return Worker(
        model=model,
        saes=saes,
        noise=UnderNoise(saes[0], pool),
        tables=RunTables(tables, layout),
        bos_id=_bos(config, model, wants_bos(config, saes)),
        packing=Packing(_sharing(config, model), ROW_LENGTH, model.context),
    )


def _about_vocabulary(model: LanguageModel) -> list[str]:
    """What is to be said where tokenizer and embedding do not fit each other."""
    tokens, embedded = len(model.tokenizer), model.vocabulary
    if tokens > embedded:
        return [
            f"the tokenizer has {tokens:,} tokens and the model embeds {embedded:,}: records with "
            f"one of the others are rejected"
        ]
    if tokens < PADDED * embedded:
        return [
            f"the tokenizer has {tokens:,} tokens and the model embeds {embedded:,}: check that "
            f"it is the model's"
        ]
    return []


def _bos(config: RunConfig, model: LanguageModel, wanted: bool | None) -> int | None:
    """The token before every passage: the tokenizer's own BOS, and nothing in its place.

    :raises UsageError: BOS is `wanted`, and the model has none.
    """
    own, name = model.tokenizer.bos_token_id, model.tokenizer.bos_token
    if config.bos_token is not None:
        name = config.bos_token
        own = model.tokenizer.get_vocab().get(name)
        if own is None:
            raise UsageError(f"--bos-token {name!r} is no token of the model {config.model}.")
    if wanted is False or (own is not None and own < model.vocabulary):
        return None if wanted is False else own
    lacks = "its tokenizer names none"
    if own is not None:
        lacks = f"{name!r} ({own}) is beyond the {model.vocabulary} embedded"
    if wanted:
        end = model.tokenizer.eos_token
        as_there = f" (TransformerLens takes {end!r}: --bos-token {end!r})" if end else ""
        raise UsageError(
            f"passages are to begin with BOS, as the SAEs or the configuration say, and the model "
            f"{config.model} has no BOS: {lacks}. Give the token that the SAEs were trained with "
            f"as --bos-token{as_there}, or set prepend_bos = false to do without."
        )
    model.notes.append(f"passages begin without BOS: {lacks}, and the SAEs do not ask for it")
    return None


def _sharing(config: RunConfig, model: LanguageModel) -> Sharing:
    """The configured sharing, as far as the model supports it."""
    return model.sharing if config.sharing == "trie" else config.sharing
