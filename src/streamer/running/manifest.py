"""What a run says in its manifest before it starts; the form is `streamer.manifest`."""

from collections.abc import Mapping
from typing import Any

from streamer.computing.worker import Worker
from streamer.manifest import Input, ModelEntry, SaeEntry, Settings
from streamer.running.prepare import Prepared

DECIDING = (
    "field",
    "separator",
    "too_long",
    "layers",
    "hook",
    "prepend_bos",
    "bos_token",
    "dtype",
    "fp16",
    "bf16",
    "seed",
    "noise_std",
    "noise_scale",
    "noise_draws",
)
"""Settings that decide numbers, beside the model and the SAEs."""


def description_of(prepared: Prepared, worker: Worker) -> dict[str, Any]:
    """What is configured, was found and was loaded, by the manifest's keys."""
    return {
        "config": Settings.model_validate(prepared.config.model_dump(mode="json")),
        "kind": prepared.loader.fields.kind,
        "device": str(worker.model.device),
        "model": model_entry(worker),
        "saes": sae_entries(worker),
        "inputs": tuple(Input.model_validate(one) for one in prepared.inputs),
        "range": prepared.range,
        "columns": tuple(column.name for column in worker.columns),
        "tables": columns_by_table(worker),
    }


def origin_of(prepared: Prepared, worker: Worker, versions: Mapping[str, str]) -> dict[str, Any]:
    """What the numbers of a part come from, whatever becomes of the run directory: model, SAEs,
    the settings that decide numbers, and versions."""
    settings = prepared.config.model_dump(mode="json", include=set(DECIDING))
    return {
        "kind": prepared.loader.fields.kind,
        "model": model_entry(worker).model_dump(mode="json"),
        "saes": [entry.model_dump(mode="json") for entry in sae_entries(worker)],
        "settings": settings,
        "notes": list(worker.model.notes),
        "versions": dict(versions),
    }


def columns_by_table(worker: Worker) -> dict[str, tuple[str, ...]]:
    """Names of all columns of each table, in order."""
    return {name: tuple(rows.schema.names) for name, rows in worker.tables.rows.items()}


def model_entry(worker: Worker) -> ModelEntry:
    """The model of `worker`, and how it is run."""
    model, bos_token = worker.model, None
    if worker.bos_id is not None:
        bos_token = model.tokenizer.convert_ids_to_tokens(worker.bos_id)
    return ModelEntry(
        name=model.identity.name,
        files=model.identity.fingerprint,
        content=model.content,
        revision=model.identity.revision,
        d_model=model.d_model,
        n_layers=model.n_layers,
        context=model.context,
        forward=model.forward,
        dtype=str(model.dtype).removeprefix("torch."),
        autocast=str(model.autocast).removeprefix("torch.") if model.autocast else None,
        sharing=worker.packing.sharing,
        bos=worker.bos_id,
        bos_token=bos_token,
        tokenizer=model.tokenizer_files,
        tokenizer_is_transformers=model.tokenizer_is_transformers,
        vocabulary=model.vocabulary,
    )


def sae_entries(worker: Worker) -> tuple[SaeEntry, ...]:
    """The SAEs of `worker`, a layer each."""
    return tuple(
        SaeEntry(
            layer=sae.layer,
            location=sae.location,
            architecture=sae.sae.cfg.architecture(),
            d_sae=sae.W_dec.shape[0],
            files=sae.fingerprint,
            content=sae.content,
            revision=sae.revision,
            trained_on=sae.trained_on,
            context_size=sae.trained_length,
            centred=sae.is_centred,
            signed=sae.is_signed,
        )
        for sae in worker.saes
    )
