"""One device at work: a batch of token ids in, a table of numbers out."""

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from streamer.computing.fault_isolation import (
    NOT_FINITE,
    Failure,
    FaultIsolation,
    Log,
    failure_of,
    nobody,
    reject,
)
from streamer.computing.model.language_model import LanguageModel
from streamer.computing.sae.encode import Encoded, encode
from streamer.computing.sae.layer_sae import LayerSae
from streamer.computing.sae.noise import NoisePool
from streamer.config import Kind
from streamer.device.traits import traits_of
from streamer.device.transfers import ToHost
from streamer.planning.packing import Packing
from streamer.records import (
    PASSAGES,
    Batch,
    Column,
    Origin,
    PackedTokens,
    Rejection,
    Result,
    TokenizedRecord,
    Window,
    Work,
)
from streamer.tables.metrics import Activations, Family, Layout, columns_of, compute
from streamer.tables.metrics.activations import LayerActivations

Steps: TypeAlias = Generator[None, None, Result]


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
        packing: Packing,
    ) -> None:
        self.model = model
        self.bos_id = bos_id
        """What passages begin with, None for nothing."""
        self.saes = tuple(saes)
        self.passages = PASSAGES[kind]
        self.packing = packing
        """How batches for this worker are to be packed."""
        self._noise = noise
        self._families = families
        layers = tuple(sae.layer for sae in saes)
        layout = Layout(layers, self.passages, tuple(sae.W_dec.shape[0] for sae in saes))
        self.columns: tuple[Column, ...] = columns_of(families, layout)
        self._begun: deque[tuple[Batch, Steps]] = deque()
        me = weakref.proxy(self)  # else a circle would keep the model in memory
        self.splitter = FaultIsolation(
            lambda batch: _to_the_end(me._steps(batch, me.model.residuals)),
            lambda window, records, ridden: Batch(window, records, ridden, packing.pack(records)),
            model.device,
            self._plain_record(),
            len(self.columns),
        )
        """Runs what the model fails on in halves."""

    def batch(
        self,
        window: Window,
        records: Sequence[TokenizedRecord],
        rejections: tuple[Rejection, ...] = (),
    ) -> Batch:
        """`records`, packed for this worker."""
        return Batch(window, tuple(records), rejections, self.packing.pack(records))

    @contextlib.contextmanager
    def running(self, log: Log, on_progress: Callable[[], None]) -> Iterator[None]:
        """A run: nothing of it is left behind, however it ends. `log` hears of batches that
        are split, and `on_progress` is called whenever something was run."""
        self.splitter.begin(log, on_progress)
        try:
            yield
        finally:
            self._begun.clear()
            self.splitter.begin(nobody, nobody)

    def process(self, batch: Batch) -> Result:
        """The numbers of every record of `batch`, now.

        What does not fit the memory, and what the model raises an error on, is split and run again,
        down to single records. A record that fails alone, or whose residual is not finite in
        float32 either, is rejected.

        :raises RunFault: the model, the memory or the device fails, whatever the record.
        """
        return self.splitter.attempt(batch)

    def alone(self, record: TokenizedRecord) -> Result:
        """The numbers of `record`, each passage run by itself: what batches must agree with."""

        def one_at_a_time(_: PackedTokens) -> Float[Tensor, "layer passage width"]:
            found = [
                self.model.residuals(Packing("none", 1).pack_passages([ids]))
                for ids in record.tokens
            ]
            return torch.cat(found, dim=1)

        return _to_the_end(self._steps(self.batch(Window(0, 1), [record]), one_at_a_time))

    def feed(self, batch: Batch) -> list[Result]:
        """Begin `batch`; the results that are there by now, of this or earlier batches.

        On CUDA the device is given the next batch before the last one is waited for.
        """
        if not traits_of(self.model.device).runs_ahead:
            return self.splitter.told([self.process(batch)])
        self._begun.append((batch, self._steps(batch, self.model.residuals)))
        return self._step()

    def drain(self) -> list[Result]:
        """The results of all that was begun."""
        results = []
        while self._begun:
            results += self._step()
        return results

    def finish(self) -> list[Result]:
        """The last results, when no more batches come.

        :raises RunFault: none of them could be measured, and not because of the records.
        """
        return self.drain() + self.splitter.last()

    def _step(self) -> list[Result]:
        """Take every batch a step further, the newest first, so that the device has work while the
        oldest is waited for."""
        results: list[Result] = []
        left: deque[tuple[Batch, Steps]] = deque()
        failed: list[tuple[Batch, Failure]] = []
        for batch, steps in reversed(self._begun):
            try:
                next(steps)
                left.appendleft((batch, steps))
            except StopIteration as done:
                results.append(self.splitter.passed(batch, done.value))
            except Exception as error:
                failed.append((batch, failure_of(error)))
        self._begun = left
        results += [self.splitter.rescue(batch, failure) for batch, failure in failed]
        return self.splitter.told(results)

    @property
    def _no_values(self) -> npt.NDArray[np.float64]:
        return np.empty((0, len(self.columns)))

    def _steps(self, batch: Batch, residuals: Callable[[PackedTokens], Tensor]) -> Steps:
        """Three steps: run the model and the SAEs and ask how many features are active; compute the
        metrics, whose shapes depend on that; read them."""
        records, rows = batch.records, batch.rows
        if rows is None:
            return Result(batch.window, (), self._no_values, batch.rejections, Work())
        with torch.inference_mode():
            noise = self._noise_of(records)
            encoded = encode(self.saes, residuals(rows), noise)
            told = ToHost(encoded.counts_and_finite())
        yield
        with torch.inference_mode():
            *counts, finite = told.wait().tolist()
            lost = [place for place, ok in enumerate(finite) if not ok]
            if lost:
                passages = [ids for record in records for ids in record.tokens]
                residual = self.model.residuals_apart([passages[place] for place in lost])
                encoded.replace(lost, encode(self.saes, residual, noise[lost]))
                *counts, finite = encoded.counts_and_finite().tolist()
            table = ToHost(
                compute(self._families, self.columns, self._activations(encoded, counts))
            )
        yield
        values = table.wait().numpy()
        good: npt.NDArray[np.bool_] = np.array(finite, dtype=bool).reshape(len(records), -1)
        good = np.logical_and.reduce(good, axis=1)
        overflown = [
            reject(record, NOT_FINITE.text)
            for record, ok in zip(records, good, strict=True)
            if not ok
        ]
        kept = tuple(record for record, ok in zip(records, good, strict=True) if ok)
        tokens = sum(len(ids) for record in records for ids in record.tokens)
        work = Work(tokens, rows.count, rows.size, len(lost), largest=rows.size)
        return Result(batch.window, kept, values[good], (*batch.rejections, *overflown), work)

    def _plain_record(self) -> TokenizedRecord:
        """One that has nothing about it that a model could fail on."""
        ids = np.arange(1, 5, dtype=np.int32)
        if self.bos_id is not None:
            ids[0] = self.bos_id
        return TokenizedRecord(Origin(0, "", 0, 0, 0), b"", "", (), (ids,) * len(self.passages))

    def _noise_of(self, records: Sequence[TokenizedRecord]) -> Float[Tensor, "passage width"]:
        """A record's noise, for each of its passages."""
        vectors = self._noise.vectors([record.key for record in records])
        return vectors.repeat_interleave(len(self.passages), dim=0)

    def _activations(self, encoded: Encoded, counts: Sequence[Sequence[int]]) -> Activations:
        def by_record(x: Float[Tensor, "passage _"]) -> Float[Tensor, "record _ _"]:
            return x.reshape(-1, len(self.passages), x.shape[-1])

        layers = tuple(
            LayerActivations(
                layer=sae.layer,
                residual=by_record(residual),
                reconstruction=None if reconstruction is None else by_record(reconstruction),
                features=by_record(features),
                W_dec=sae.W_dec,
                b_dec=sae.b_dec if reconstruction is None else None,
                counts=active,
                dtype=traits_of(self.model.device).analysis,
            )
            for sae, residual, reconstruction, features, active in zip(
                self.saes,
                encoded.residual,
                encoded.reconstructions,
                encoded.features,
                counts,
                strict=True,
            )
        )
        return Activations(self.passages, layers, by_record(encoded.noisy))


def _to_the_end(steps: Steps) -> Result:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result
