"""One device at work: a batch of token ids in, the rows of every table out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from streamer.batches import Batch, Result, Window, Work
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.sae.caveats import beyond_training
from streamer.computing.sae.encode import Encoded, encode
from streamer.computing.sae.layer_sae import LayerSae
from streamer.computing.sae.noise import indices_of
from streamer.computing.sae.under_noise import UnderNoise
from streamer.device.traits import traits_of
from streamer.device.transfers import ToHost, to_device
from streamer.planning.packing import Packing
from streamer.records import Counts, Origin, Rejection, TokenizedRecord
from streamer.tables import Column, RunTables
from streamer.tables.metrics.activations import Activations, LayerActivations
from streamer.tables.sparse import SparseFeatures

NOT_FINITE = "the model's residual is not finite, in float32 either"


@dataclass(slots=True)
class InFlight:
    """A batch that is on its way through the device: launched, decomposed, measured, collected.

    Each step leaves here what the next one needs, and lets go of the tensors that none needs.
    """

    batch: Batch
    encoded: Encoded | None = None
    """From launch to decompose."""
    for_the_host: ToHost | None = None
    """[layer + 2, passage], from launch to decompose: see `Encoded.for_the_host`."""
    activations: Activations | None = None
    """From decompose to measure."""
    finite: Sequence[int] = field(default_factory=tuple)
    """[passage], from decompose on: whether its residual is finite."""
    reruns: int = 0
    """Passages that were run again by themselves in float32."""
    faint: int = 0
    """Passages whose noise is too faint to say much."""
    taken: dict[str, list[ToHost]] = field(default_factory=dict)
    """What each table takes of it, from measure on."""
    steps: int = 1
    """How many it has taken."""


class Worker:
    """Owns a device: the model, the SAEs and the noise on it. Used from one thread.

    A batch takes four steps: `launch`, `decompose`, `measure`, `collect`. No step waits for what
    was begun in it, so that a device with other batches is never without work; but for passages
    that must be run again, and where a model's own code waits. None knows what to do about a batch
    that fails, or that does not fit the memory: `FaultIsolation` does.
    """

    def __init__(
        self,
        *,
        model: LanguageModel,
        saes: Sequence[LayerSae],
        noise: UnderNoise,
        tables: RunTables,
        bos_id: int | None,
        packing: Packing,
    ) -> None:
        self.model = model
        self.bos_id = bos_id
        """What passages begin with, None for nothing."""
        self.saes = tuple(saes)
        self.tables = tables
        """Those that its results have rows of."""
        self.passages = tables.layout.passages
        self.packing = packing
        """How batches for this worker are to be packed."""
        self.noise = noise
        """What is added to the residual of the first layer."""
        self._longest = 0

    @property
    def columns(self) -> tuple[Column, ...]:
        """The measurements of the table that leads."""
        return self.tables.columns

    @property
    def caveats(self) -> list[str]:
        """What is to be known of what was measured so far, for what it was."""
        return beyond_training(self.saes, self._longest)

    def batch(
        self,
        window: Window,
        records: Sequence[TokenizedRecord],
        rejections: tuple[Rejection, ...] = (),
    ) -> Batch:
        """`records`, packed for this worker."""
        return Batch(window, tuple(records), rejections, self.packing.pack(records))

    def launch(self, batch: Batch) -> InFlight:
        """Let the device run `batch` through the model and the SAEs; does not wait for it, unless
        the model's own code does.

        Raises whatever the model and the device raise, as do the other steps.
        """
        if batch.rows is None:
            return InFlight(batch)
        noise = indices_of(batch.records, len(self.passages))
        with torch.inference_mode():
            *rows, noise_index = to_device((*batch.rows.arrays, noise), self.model.device)
            return self._encode(batch, self.model.residuals(batch.rows, rows), noise_index)

    def advance(self, in_flight: InFlight) -> Result | None:
        """Take its next step; what came of it, if that was the last."""
        in_flight.steps += 1
        if in_flight.steps > 3:
            return self.collect(in_flight)
        step = self.decompose if in_flight.steps == 2 else self.measure
        step(in_flight)
        return None

    def decompose(self, in_flight: InFlight) -> None:
        """Wait until it is encoded, and let the device make the matrices that the shapes of its
        passages come from, and the host's threads decompose them.

        Their sizes depend on how many features are active. Passages whose residual is not finite
        are run again before, by themselves and in float32, and waited for.
        """
        encoded, for_the_host = in_flight.encoded, in_flight.for_the_host
        in_flight.encoded = in_flight.for_the_host = None
        if encoded is None or for_the_host is None:
            return
        with torch.inference_mode():
            *counts, faint, finite = for_the_host.wait().tolist()
            lost = [index for index, ok in enumerate(finite) if not ok]
            if lost:
                self._rerun(in_flight.batch, lost, encoded)
                *counts, faint, finite = encoded.for_the_host().tolist()
            in_flight.activations = self._activations(encoded, counts)
            del encoded  # the dense features: by far the most that a batch holds
            in_flight.activations.begin()
        in_flight.finite, in_flight.reruns, in_flight.faint = finite, len(lost), sum(faint)

    def measure(self, in_flight: InFlight) -> None:
        """Wait for the host's threads, and let the device compute what the tables take of it."""
        activations, in_flight.activations = in_flight.activations, None
        if activations is None:
            return
        with torch.inference_mode():
            in_flight.taken = {
                table: [ToHost(tensor) for tensor in tensors]
                for table, tensors in self.tables.take(activations).items()
            }

    def collect(self, in_flight: InFlight) -> Result:
        """Wait for what the tables take of it; their rows. Records whose residual is not finite in
        float32 either are rejected."""
        batch, rows = in_flight.batch, in_flight.batch.rows
        if rows is None:
            return self.no_result(batch.window, batch.rejections)
        arrays = {
            table: [tensor.wait().numpy() for tensor in tensors]
            for table, tensors in in_flight.taken.items()
        }
        good = [all(each) for each in np.reshape(in_flight.finite, (len(batch.records), -1))]
        lost = [index for index, ok in enumerate(good) if not ok]
        kept = tuple(one for one, ok in zip(batch.records, good, strict=True) if ok)
        rejections = batch.rejections + tuple(
            reject(batch.records[index], NOT_FINITE) for index in lost
        )
        made = self.tables.made(batch.records, arrays, lost, rejections)
        lengths = [len(ids) for record in batch.records for ids in record.tokens]
        self._longest = max(self._longest, *lengths)
        counts = Counts(
            tokens=sum(lengths), tokens_run=rows.count, reruns_in_float32=in_flight.reruns
        )
        work = Work(counts, rows.size, in_flight.faint, rows.footprint)
        return Result(batch.window, kept, made, rejections, work)

    def process(self, batch: Batch) -> Result:
        """All steps, one after the other; waits for the device."""
        return self._to_the_end(self.launch(batch))

    def alone(self, record: TokenizedRecord) -> Result:
        """The numbers of `record`, each passage run by itself: what batches must agree with. Waits
        for the device."""
        one_by_one = Packing("none", 1)
        noise = indices_of([record], len(self.passages))
        with torch.inference_mode():
            found = [self.model.residuals(one_by_one.pack_passages([ids])) for ids in record.tokens]
            batch = self.batch(Window(0, 1), [record])
            (noise_index,) = to_device([noise], self.model.device)
            in_flight = self._encode(batch, torch.cat(found, dim=1), noise_index)
        return self._to_the_end(in_flight)

    def no_result(
        self, window: Window, rejections: tuple[Rejection, ...], work: Work | None = None
    ) -> Result:
        """What comes of a batch of which no record was measured."""
        made = self.tables.of_rejections(rejections)
        return Result(window, (), made, rejections, work or Work())

    def plain_record(self) -> TokenizedRecord:
        """One that has nothing about it that a model could fail on."""
        ids = np.arange(1, 5, dtype=np.int32)
        if self.bos_id is not None:
            ids[0] = self.bos_id
        return TokenizedRecord(Origin(0, "", 0, 0, 0), b"", "", (), (ids,) * len(self.passages))

    def _to_the_end(self, in_flight: InFlight) -> Result:
        while (result := self.advance(in_flight)) is None:
            pass
        return result

    def _encode(
        self,
        batch: Batch,
        residual: Float[Tensor, "layer passage d_model"],
        noise: Int[Tensor, " passage"],
    ) -> InFlight:
        encoded = encode(self.saes, residual, self.noise, noise)
        return InFlight(batch, encoded, ToHost(encoded.for_the_host()))

    def _rerun(self, batch: Batch, lost: Sequence[int], encoded: Encoded) -> None:
        """Run the passages at the indices `lost` again, into `encoded`."""
        passages = [ids for record in batch.records for ids in record.tokens]
        residual = self.model.residuals_apart([passages[index] for index in lost])
        noise = indices_of(batch.records, len(self.passages))[lost]
        (noise_index,) = to_device([noise], self.model.device)
        encoded.replace(lost, encode(self.saes, residual, self.noise, noise_index))

    def _activations(self, encoded: Encoded, counts: Sequence[Sequence[int]]) -> Activations:
        """What the metrics are computed from; nothing that is d_sae wide is left in it."""
        dtype = traits_of(self.model.device).analysis

        def by_record(x: Float[Tensor, "passage _"]) -> Float[Tensor, "record _ _"]:
            return x.reshape(-1, len(self.passages), x.shape[-1])

        at_layers = SparseFeatures.of_layers(encoded.features, counts, dtype, encoded.signed)
        layers = tuple(
            LayerActivations(
                layer=sae.layer,
                residual=by_record(residual),
                reconstruction=None if reconstruction is None else by_record(reconstruction),
                features=features,
                W_dec=sae.W_dec,
                b_dec=sae.b_dec if reconstruction is None else None,
            )
            for sae, residual, reconstruction, features in zip(
                self.saes, encoded.residual, encoded.reconstructions, at_layers, strict=True
            )
        )
        return Activations(self.passages, layers, encoded.noisy)


def reject(record: TokenizedRecord, reason: str) -> Rejection:
    """`record`, rejected."""
    return Rejection(record.origin, reason, record.raw, len(record.raw))
