"""The embedded worker on an accelerator that is not there, and the faults that this program had."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

import streamer.computing.worker
import streamer.tables.metrics.shape
import streamer.tables.sparse
from streamer.batches import Batch, Result, Window
from streamer.computing.load import load_worker
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.sae.noise import NoisePool
from streamer.computing.worker import Worker
from streamer.config import RunConfig
from streamer.device import traits
from streamer.records import Origin, TokenizedRecord
from streamer.tables.metrics import Activations
from support.pretended import Pretended

TEXTS = ["The sky is", "The colour of grass is", "Water boils at", "A river runs to the"]
SHARINGS = ("trie", "prefix", "none")


def load(sharing: Any = "trie") -> Worker:
    """The embedded model and SAEs, on the CPU, for this test alone."""
    return load_worker(RunConfig(device="cpu", sharing=sharing), "contrast")


def batch_for(worker: Worker, first: int = 0) -> Batch:
    """Records of `TEXTS`; others for another `first`."""
    records = []
    for row, text in enumerate(TEXTS):
        texts = [text, f"{text} blue {first}", f"{text} not what it was"]
        ids = worker.model.tokenizer(texts, add_special_tokens=False)["input_ids"]
        tokens = tuple(np.array([worker.bos_id, *one], dtype=np.int32) for one in ids)
        records.append(TokenizedRecord(Origin(row, "", row, 0, 0), b"", str(row), (), tokens))
    return worker.batch(Window(first, len(records)), records)


def moved(worker: Worker, mode: Pretended) -> Worker:
    """`worker`, its weights on the accelerator of `mode`."""
    move_model(worker.model, mode)
    for sae in worker.saes:
        _move(sae.sae, mode)
        vars(sae).pop("_threshold", None)  # made when it is first asked for
    noise = worker.noise
    noise.pool.vectors = mode.put(noise.pool.vectors)
    noise._encoded = None if noise._encoded is None else mode.put(noise._encoded)
    return worker


def move_model(model: LanguageModel, mode: Pretended) -> None:
    """Put its weights on the accelerator of `mode`."""
    _move(model._run.module, mode)
    model.device = mode.device


def _move(whole: nn.Module, mode: Pretended) -> None:
    for module in whole.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = mode.put(tensor.detach())


def assert_same(result: Result, expected: Result, tolerance: float) -> None:
    """Up to `tolerance`, of angles up to a thousandth of a degree."""
    assert len(result.records) == len(expected.records) == len(TEXTS)
    found, wanted = numbers(result), numbers(expected)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        close = np.allclose(found[name], values, rtol=tolerance, atol=1e-3, equal_nan=True)
        assert close, (name, found[name], values)
    assert np.mean([np.isfinite(values).mean() for values in found.values()]) > 0.9


def numbers(result: Result) -> dict[str, np.ndarray]:
    """Each column of numbers of its metrics; NaN where there is none."""
    table = result.tables["metrics"]
    return {
        name: table[name].to_numpy(zero_copy_only=False).astype(float)
        for name in table.column_names
        if not pa.types.is_string(table[name].type) and not pa.types.is_dictionary(table[name].type)
    }


def put_back(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the faults that this program had, in its own code."""
    shape, worker = streamer.tables.metrics.shape, streamer.computing.worker
    if fault == "float64":
        wide = traits.Traits(most_tokens=1, start_tokens=1, start_flops=1)
        monkeypatch.setitem(traits.TRAITS, "mps", wide)
    elif fault == "eigenvalues":  # decomposed where they are
        monkeypatch.setattr(shape, "ToHost", shape.spectrum)
    elif fault == "lists":
        monkeypatch.setattr(streamer.tables.sparse, "to_device", _from_lists)
    elif fault == "noise of the host":
        at = NoisePool.at
        monkeypatch.setattr(
            NoisePool, "at", lambda pool, index, draw: at(pool, torch.arange(len(index)), draw)
        )
    elif fault == "read at once":
        arrive = worker.ToHost
        monkeypatch.setattr(worker, "ToHost", lambda tensor: _waited_for(arrive(tensor)))
    elif fault == "a look at numbers":
        begin = Activations.begin

        def look(activations: Activations) -> None:
            begin(activations)
            bool((activations.layers[0].l0 > 0).all())

        monkeypatch.setattr(Activations, "begin", look)
    else:
        raise ValueError(fault)


def _from_lists(arrays: Any, device: torch.device) -> list[Tensor]:
    return [torch.tensor(array.tolist(), device=device) for array in arrays]


def _waited_for(arriving: Any) -> Any:
    arriving.wait()
    return arriving
