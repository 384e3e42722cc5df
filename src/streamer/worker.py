"""One device at work: a batch of token ids in, a table of numbers out."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from streamer.analysis import FAMILIES, Activations, Family, Layout, columns_of, compute
from streamer.analysis.activations import LayerActivations
from streamer.config import Kind, RunConfig
from streamer.errors import UsageError
from streamer.model.language_model import LanguageModel, find_model, load_language_model
from streamer.model.noise import NoisePool
from streamer.model.precision import DTYPES, analysis_dtype, pick_device
from streamer.model.saes import LayerSae, find_saes, load_saes, wants_bos
from streamer.records import PASSAGES, Batch, Column, Rejection, Result, TokenizedRecord


class Worker:
    """Owns a device: the model, the SAEs and the noise pool on it. Used from one thread."""

    def __init__(
        self,
        *,
        model: LanguageModel,
        saes: Sequence[LayerSae],
        noise: NoisePool,
        kind: Kind,
        families: Sequence[Family],
        bos_id: int | None,
    ) -> None:
        self.model = model
        self.bos_id = bos_id
        """What passages begin with, None for nothing."""
        self.saes = tuple(saes)
        self.passages = PASSAGES[kind]
        self._noise = noise
        self._families = families
        layers = tuple(sae.layer for sae in saes)
        layout = Layout(layers, self.passages, tuple(sae.W_dec.shape[0] for sae in saes))
        self.columns: tuple[Column, ...] = columns_of(families, layout)

    def process(self, batch: Batch) -> Result:
        """The numbers of every record of `batch`; a record whose residual overflows is rejected."""
        if not batch.records:
            values = np.empty((0, len(self.columns)))
            return Result(batch.window, (), values, batch.rejections)
        residual = self._residuals(batch.records)
        with torch.inference_mode():
            finite = residual.isfinite().all(-1).all(-1).all(0)
            residual = residual.masked_fill(~finite[:, None, None], 0)
            activations = self._encode(residual, batch.records)
            table = compute(self._families, self.columns, activations)
            values = torch.cat([table, finite[:, None].to(table.dtype)], dim=1).cpu().numpy()
        good = values[:, -1] > 0
        overflown = [
            _overflow(record) for record, ok in zip(batch.records, good, strict=True) if not ok
        ]
        records = tuple(record for record, ok in zip(batch.records, good, strict=True) if ok)
        return Result(batch.window, records, values[good, :-1], (*batch.rejections, *overflown))

    def _residuals(
        self, records: Sequence[TokenizedRecord]
    ) -> Float[Tensor, "layer record passage d_model"]:
        tokens, lengths = _padded([ids for record in records for ids in record.tokens])
        device = self.model.device
        x = self.model.residuals(tokens.to(device), lengths.to(device))
        return x.reshape(len(self.saes), len(records), len(self.passages), -1)

    def _encode(
        self,
        residual: Float[Tensor, "layer record passage d_model"],
        records: Sequence[TokenizedRecord],
    ) -> Activations:
        shape = residual.shape[1:3]
        encoded = [
            sae.encode_decode(x.flatten(0, 1)) for sae, x in zip(self.saes, residual, strict=True)
        ]
        # The one read that shapes depend on: how many features are active in each passage.
        counts = torch.stack([(features > 0).sum(-1) for features, _ in encoded]).cpu()
        dtype = analysis_dtype(self.model.device)
        layers = tuple(
            LayerActivations(
                layer=sae.layer,
                residual=x,
                reconstruction=reconstruction.reshape(x.shape),
                features=features.reshape(*shape, -1),
                W_dec=sae.W_dec,
                counts=active.reshape(shape).tolist(),
                dtype=dtype,
            )
            for sae, x, (features, reconstruction), active in zip(
                self.saes, residual, encoded, counts, strict=True
            )
        )
        noise = self._noise.vectors([record.key for record in records])
        noisy = self.saes[0].encode((residual[0] + noise[:, None]).flatten(0, 1))
        return Activations(self.passages, layers, noisy.reshape(*shape, -1))


def load_worker(config: RunConfig, kind: Kind, families: Sequence[Family] = FAMILIES) -> Worker:
    """The worker of the configured device, with model and SAEs loaded.

    :raises UsageError: the device, the model or an SAE is not to be had.
    """
    device = pick_device(config.device)
    path, places = find_model(config), find_saes(config)  # before anything large is loaded
    model = load_language_model(path, config, device)
    saes = load_saes(places, config, model)
    noise = NoisePool(model.width, config.noise_std, config.seed, device, DTYPES[config.dtype])
    bos_id = model.tokenizer.bos_token_id if wants_bos(config, saes) else None
    if bos_id is None and wants_bos(config, saes):
        raise UsageError(
            f"the SAEs want passages to begin with BOS, and the tokenizer of {config.model} has "
            f"none. Say prepend_bos = false to do without."
        )
    return Worker(model=model, saes=saes, noise=noise, kind=kind, families=families, bos_id=bos_id)


def _padded(
    rows: Sequence[np.ndarray],
) -> tuple[Int[Tensor, "row position"], Int[Tensor, " row"]]:
    """Rows of token ids side by side, padded on the right, and their lengths.

    What stands in the padding is never read: it is masked, and behind every real token.
    """
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.from_numpy(row)
    return tokens, lengths


def _overflow(record: TokenizedRecord) -> Rejection:
    reason = "the model's residual is not finite (overflow); try another dtype"
    return Rejection(record.origin, reason, record.raw, len(record.raw))
