"""The command itself, as a user runs it: exit codes, output, the display, signals."""

import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pyte
import pytest

import streamer
from support.processes import COMMAND, GOOD, Popen, run, wait_until_done

LINE = re.compile(
    r"Progress: \d+/~?\d+ samples \| Rate: \d+\.\d samples/sec \| ETA: \S+ \| Peak memory: "
    r"\d+(\.\d)? [MG]B"
)


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("default")
    return run("run", "--out", "RUN", folder=folder), folder / "RUN"


def test_without_arguments_the_embedded_records_are_measured(default_run):
    done, path = default_run
    assert done.returncode == 0, done.stderr
    metrics = streamer.open_run(path).table("metrics")
    assert metrics.num_rows == 200
    assert set(metrics["domain"].to_pylist()) == {"entity", "temporal", "logical", "adversarial"}
    assert {entry.name for entry in path.iterdir()} == {
        "metrics",
        "rejected",
        "manifest.json",
        "status.json",
        "log.jsonl",
        ".lock",
    }


def test_without_a_terminal_lines_and_a_summary_are_printed(default_run):
    done, path = default_run
    assert LINE.search(done.stdout)
    assert "200 measured, 0 rejected" in done.stdout
    assert path.name in done.stdout
    assert "Means by domain" in done.stdout
    assert "streamer.open_run('RUN').table('metrics')" in done.stdout
    for domain in ("entity", "temporal", "logical", "adversarial"):
        assert re.search(rf"^{domain} +50 ", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_a_terminal_shows_everything_the_stages_do(tmp_path):
    (tmp_path / "in.jsonl").write_text((GOOD * 3000) + "rubbish\n")
    main, terminal = pty.openpty()
    os.set_blocking(main, False)
    process = Popen(
        [*COMMAND, "run", "in.jsonl", "--out", "RUN", "--batch-size", "16"],
        cwd=tmp_path,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(terminal)
    screen = pyte.Screen(100, 40)
    stream = pyte.ByteStream(screen)
    seen = ""
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        try:
            stream.feed(os.read(main, 65536))
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:
            break
        shown = "\n".join(screen.display)
        if "holds the others back" in shown and re.search(r"done .*[1-9]\d*/", shown):
            seen = shown
            if "records/s" in shown and re.search(r"batch +16 records", shown):
                process.send_signal(signal.SIGINT)
                break
    while process.poll() is None:
        try:
            stream.feed(os.read(main, 65536))
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:
            process.wait(60)
    for part in (
        "streamer · embedded",
        "records/s",
        "tokens/s",
        "to go",
        "loaded",
        "batches",
        "results",
        "compute",
        "rejected",
        "memory",
        "peak",
    ):
        assert part in seen, seen
    assert process.returncode == 130
    assert "stopped" in "\n".join(screen.display)
    assert streamer.open_run(tmp_path / "RUN").manifest["status"] == "stopped"


def test_a_signal_drains_what_is_in_flight_and_says_so(tmp_path):
    (tmp_path / "in.jsonl").write_text(GOOD * 100_000)
    process = Popen(
        [*COMMAND, "run", "in.jsonl", "--out", "RUN"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until_done(process, tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    run = streamer.open_run(tmp_path / "RUN")
    rows = run.table("metrics")["row"].to_pylist()
    assert rows == list(range(run.manifest["counts"]["records"]))
    assert 0 < len(rows) < 100_000
    assert f"{len(rows):,} measured" in output


def test_a_pipe_that_idles_is_measured_and_can_be_stopped(tmp_path):
    process = Popen(
        [*COMMAND, "run", "-", "--out", "RUN"], cwd=tmp_path, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(GOOD.encode() * 3)
    process.stdin.flush()
    wait_until_done(process, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    run = streamer.open_run(tmp_path / "RUN")
    assert run.table("metrics")["row"].to_pylist() == [0, 1, 2]
    assert run.manifest["status"] == "stopped"


def test_a_run_outlives_the_pipe_that_its_lines_go_to(tmp_path):
    process = Popen(
        [*COMMAND, "run", "--out", "RUN"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    process.stdout.close()
    assert process.wait(60) in (0, 120)  # 120: Python could not flush what nobody reads
    assert streamer.open_run(tmp_path / "RUN").manifest["status"] == "finished"


def test_standard_input_and_a_file_of_settings(tmp_path):
    (tmp_path / "my.toml").write_text(
        'field = { text = "question" }\ncarry = { n = "int64" }\nlayers = [1, 3]\nlimit = 2\n'
    )
    questions = "".join(json.dumps({"question": f"What is {n}?", "n": n}) + "\n" for n in range(9))
    done = run(
        "run",
        "-",
        "--config",
        "my.toml",
        "--out",
        "RUN",
        "--limit",
        "3",
        "--carry",
        "m=string",
        folder=tmp_path,
        input=questions,
    )
    assert done.returncode == 0, done.stderr
    table = streamer.open_run(tmp_path / "RUN").table("metrics")
    assert table.column_names[:7] == ["row", "id", "source", "domain", "n", "m", "text_tokens"]
    assert table["n"].to_pylist() == [0, 1, 2]
    assert table["domain"].to_pylist() == ["stdin"] * 3
    assert not [name for name in table.column_names if name.startswith(("l5", "cross"))]


def test_help_and_version_do_not_load_torch(tmp_path):
    for arguments in (["--help"], ["--version"], ["run", "--help"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "streamer", *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        assert " torch" not in done.stderr
        assert " pyarrow" not in done.stderr
        assert done.stdout
    assert streamer.__version__ in run("--version", folder=tmp_path).stdout


def test_a_truncated_archive_ends_with_a_rejection_not_a_traceback(tmp_path):
    packed = gzip.compress((GOOD * 500).encode())
    (tmp_path / "in.jsonl.gz").write_bytes(packed[:-12])
    done = run("run", "in.jsonl.gz", "--out", "RUN", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "truncated gzip" in " ".join(done.stdout.split())


def test_a_terminal_that_goes_away_does_not_end_the_run(tmp_path):
    (tmp_path / "in.jsonl").write_text(GOOD * 400)
    process, terminal = pty.fork()
    if not process:
        os.chdir(tmp_path)
        os.execv(sys.executable, [*COMMAND, "run", "in.jsonl", "--out", "RUN", "--batch-size", "2"])
    log = tmp_path / "RUN" / "log.jsonl"
    while not (log.exists() and "started" in log.read_text()):
        assert os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    manifest = streamer.open_run(tmp_path / "RUN").manifest
    assert manifest["status"] == "finished"
    assert manifest["counts"]["rows"] == 400
