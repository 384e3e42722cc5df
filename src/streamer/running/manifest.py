"""What the manifest says of a run before it starts."""

from dataclasses import asdict
from typing import Any

from streamer.computing.worker import Worker
from streamer.running.prepare import Prepared


def description_of(prepared: Prepared, worker: Worker) -> dict[str, Any]:
    """What the manifest says of a run before it starts."""
    model = worker.model
    return {
        "config": prepared.config.model_dump(mode="json"),
        "kind": prepared.loader.fields.kind,
        "device": str(model.device),
        "model": {
            "name": model.identity.name,
            "files": model.identity.fingerprint,
            "revision": model.identity.revision,
            "d_model": model.d_model,
            "n_layers": model.n_layers,
            "context": model.context,
            "forward": model.forward,
            "dtype": str(model.dtype).removeprefix("torch."),
            "autocast": str(model.autocast).removeprefix("torch.") if model.autocast else None,
            "sharing": worker.packing.sharing,
            "bos": worker.bos_id,
        },
        "saes": [
            {
                "layer": sae.layer,
                "location": sae.location,
                "architecture": sae.sae.cfg.architecture(),
                "d_sae": sae.W_dec.shape[0],
                "files": sae.fingerprint,
                "revision": sae.revision,
            }
            for sae in worker.saes
        ],
        "inputs": prepared.inputs,
        "range": asdict(prepared.range),
        "columns": [column.name for column in worker.columns],
    }
