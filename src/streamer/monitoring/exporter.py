"""Prometheus metrics of a run, over HTTP while it goes on."""

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.monitoring.counters import RATE_SECONDS, Counters
from streamer.monitoring.observer import Observer
from streamer.monitoring.snapshot import Snapshot

RECENTLY = f"over the last {RATE_SECONDS:.0f} seconds."


class Exporter(Collector):
    """Exports the counters and the latest snapshot of a run; nothing before the first snapshot."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def collect(self) -> Iterable[Metric]:
        """Part of `Collector`; called by the server's threads."""
        if self._observer.latest is not None:
            yield from _counters(self._observer.counters)
            yield from _gauges(self._observer.latest)


def exposure(config: RunConfig) -> str | None:
    """A warning if other machines can read the metrics; None if they cannot."""
    address = config.metrics_address
    try:
        is_local = ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name
        is_local = address == "localhost"
    if config.metrics_port is None or is_local:
        return None
    return (
        f"anybody who reaches this machine can read the run's metrics, without a password: "
        f"metrics_address is {address}, port {config.metrics_port}"
    )


@contextlib.contextmanager
def exporting(config: RunConfig, observer: Observer) -> Iterator[None]:
    """While inside, serve the metrics of `observer` at the configured port, if any.

    :raises UsageError: nothing can listen there.
    """
    port, address = config.metrics_port, config.metrics_address
    if port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(Exporter(observer))
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise UsageError(
            f"cannot serve metrics at {address}, port {port}: {error.strerror or error}. Choose "
            f"another with --metrics-port (or --metrics-address)."
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _counters(counters: Counters) -> Iterator[Metric]:
    session = counters.session
    for name, about, value in (
        ("records", "Records that are done, good and bad.", counters.done),
        ("rejected_records", "Records written to rejected/.", counters.written.rejected),
        ("tokens", "Tokens of all passages that are done.", session.tokens),
        ("tokens_run", "Those of them that were run: shared ones once.", session.tokens_run),
        (
            "out_of_memory_splits",
            "Times that a batch did not fit the memory.",
            session.out_of_memory_splits,
        ),
        ("float32_reruns", "Passages run again in float32.", session.reruns_in_float32),
    ):
        yield CounterMetricFamily(f"streamer_{name}", about, value)
    about = "Time that a stage has worked."
    busy = CounterMetricFamily("streamer_stage_busy_seconds", about, labels=["stage"])
    for stage, seconds in counters.busy_so_far().items():
        busy.add_metric([stage], seconds)
    yield busy


def _gauges(now: Snapshot) -> Iterator[Metric]:
    for name, about, value in (
        ("input_records", "Records there are; an estimate while the input is read.", now.total),
        ("records_per_second", f"Records done, {RECENTLY}", now.records_per_second),
        ("tokens_per_second", f"Tokens of all passages, {RECENTLY}", now.tokens_per_second),
        ("run_seconds", "Since the first record was asked for.", now.seconds),
        (
            "in_trouble",
            "1 while the run waits for something outside it, such as a full disk.",
            bool(now.note),
        ),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"streamer_{name}", about, value)
    memory = now.memory
    held = {"process": memory.process, "device": memory.device}
    peak = {"process": memory.process_peak, "device": memory.device_peak}
    yield _by("queue_fill_ratio", "How full a queue is, 0 to 1.", "queue", now.fill)
    yield _by("memory_bytes", "Memory that is held.", "of", held)
    yield _by("memory_peak_bytes", "Most memory that was held.", "of", peak)


def _by(name: str, about: str, label: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(f"streamer_{name}", about, labels=[label])
    for key, value in values.items():
        if value is not None:
            family.add_metric([key], value)
    return family
