"""Prometheus metrics over HTTP while a run goes on."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import anyio
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.monitoring.counters import Counters
from streamer.monitoring.exporter import exporting, exposure
from streamer.monitoring.observer import Observer
from streamer.running.prepare import prepare
from streamer.running.run import run
from support.processes import COMMAND, Popen
from support.processes import run as command
from support.runs import run_with

GOOD = b'{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}\n'


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Every sample by its name and the value of its label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_serves_what_it_counts_while_it_goes_on(tmp_path, port):
    process = Popen(
        [*COMMAND, "run", "-", "--out", "RUN", "--metrics-port", str(port)],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(GOOD * 5 + b"rubbish\n")
    process.stdin.flush()
    found: dict[tuple[str, str], float] = {}
    deadline = time.monotonic() + 60
    seen = [("streamer_rejected_records_total", ""), ("streamer_records_per_second", "")]
    while not all(found.get(name) for name in seen):  # gauges are as old as the last sign of life
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
        if (tmp_path / "RUN").exists():
            found = scrape(port)
        assert process.poll() is None
    assert found["streamer_records_total", ""] == 6
    assert found["streamer_rejected_records_total", ""] == 1
    tokens, run_once = found["streamer_tokens_total", ""], found["streamer_tokens_run_total", ""]
    assert tokens > run_once > 0
    assert found["streamer_records_per_second", ""] > 0
    for stage in ("load", "plan", "compute", "write"):
        assert found["streamer_stage_busy_seconds_total", stage] >= 0
    assert found["streamer_stage_busy_seconds_total", "compute"] > 0
    for queue in ("loaded", "batches", "results"):
        assert 0 <= found["streamer_queue_fill_ratio", queue] <= 1
    memory = found["streamer_memory_bytes", "process"]
    assert found["streamer_memory_peak_bytes", "process"] >= memory > 10**8
    assert ("streamer_memory_bytes", "device") not in found
    for name in ("out_of_memory_splits_total", "float32_reruns_total", "in_trouble"):
        assert found[f"streamer_{name}", ""] == 0
    assert ("streamer_input_records", "") not in found  # a pipe does not tell
    process.stdin.close()
    assert process.wait(60) == 0
    with pytest.raises(urllib.error.URLError):
        scrape(port)


def test_several_runs_in_one_process_take_the_same_port(tmp_path, port):
    for name in ("1", "2"):
        config = RunConfig(out=tmp_path / name, limit=3, progress="none", metrics_port=port)
        anyio.run(run, prepare(config))


def test_it_listens_for_this_machine_only_unless_told_otherwise(port):
    observer = Observer(Counters(), (), torch.device("cpu"))
    with exporting(RunConfig(metrics_port=port), observer):
        assert scrape(port) == {}  # the model is being loaded
        observer.look()
        assert scrape(port)["streamer_records_total", ""] == 0
        assert not is_heard("127.0.0.2", port)
    with exporting(RunConfig(metrics_port=port, metrics_address="0.0.0.0"), observer):
        assert is_heard("127.0.0.2", port)


def is_heard(address: str, port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex((address, port)) == 0


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(tmp_path, taken, monkeypatch):
    monkeypatch.setattr("streamer.running.load.load_worker", None)
    config = RunConfig(out=tmp_path / "RUN", metrics_port=taken)
    with pytest.raises(UsageError, match=f"127.0.0.1, port {taken}: Address already in use"):
        anyio.run(run, prepare(config))
    assert not (tmp_path / "RUN").exists()


def test_a_port_is_a_number_that_a_port_can_have(tmp_path):
    for wrong in ("0", "70000"):
        done = command("run", "--metrics-port", wrong, folder=tmp_path)
        assert done.returncode == 2
        assert "metrics_port" in done.stderr
    with (
        pytest.raises(UsageError, match=r"cannot serve metrics at no\.such\.host"),
        exporting(
            RunConfig(metrics_port=9, metrics_address="no.such.host.invalid"),
            Observer(Counters(), (), torch.device("cpu")),
        ),
    ):
        pass


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7", "gpu-box"])
def test_a_run_whose_metrics_others_can_read_says_so(address):
    assert "anybody who reaches this machine" in (exposure(config_at(address, 9090)) or "")
    assert exposure(config_at(address, None)) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_metrics_that_this_machine_alone_can_read_are_no_news(address):
    assert exposure(config_at(address, 9090)) is None


def config_at(address: str, port: int | None) -> RunConfig:
    return RunConfig(metrics_address=address, metrics_port=port)


def test_the_log_says_that_others_can_read_the_metrics(tmp_path, port):
    run_with(None, out=tmp_path, limit=2, metrics_port=port, metrics_address="0.0.0.0")
    assert "anybody who reaches this machine" in (tmp_path / "log.jsonl").read_text()
