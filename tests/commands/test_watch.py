"""`streamer watch`: a run that goes on, ends, hangs or is dead, seen from outside."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyte
import pytest

from streamer.commands.watch import OLD_SECONDS, Watched
from streamer.errors import UsageError
from streamer.monitoring.status import read_status
from streamer.writing.storage.local import LocalStorage
from support.processes import COMMAND, Popen, run
from support.snapshots import NOW, status_file

GOOD = b'{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}\n'


class Fed:
    """A run of the embedded model on what it is fed through a pipe."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.path = folder / "RUN"
        self.process = Popen(
            [*COMMAND, "run", "-", "--out", "RUN", *arguments], cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def feed(self, records: int) -> None:
        assert self.process.stdin
        self.process.stdin.write(GOOD * records)
        self.process.stdin.flush()

    def status(self) -> dict:
        return json.loads((self.path / "status.json").read_bytes())

    def wait_until_done(self, records: int) -> dict:
        """Its status when so many are."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                if (status := self.status())["done"] >= records:
                    return status
            assert self.process.poll() is None
            time.sleep(0.1)
        raise AssertionError("it took too long")

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(60)


@pytest.fixture
def fed(tmp_path) -> Iterator[Fed]:
    fed = Fed(tmp_path)
    fed.feed(5)
    fed.wait_until_done(5)
    yield fed
    fed.process.kill()
    fed.process.wait()


def watching(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("watch", "RUN", *arguments, folder=folder, timeout=60)


def make_old(path: Path) -> None:
    """As if a minute had gone by since the last heartbeat."""
    file = path / "status.json"
    status = json.loads(file.read_bytes())
    status["heartbeat"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    file.write_text(json.dumps(status))


def test_a_run_tells_what_it_does_until_its_end(fed):
    first = fed.status()
    assert first["status"] == "running"
    assert first["pid"] == fed.process.pid
    assert first["title"].startswith("streamer · embedded")
    assert first["memory"]["process"] > 10**8
    assert first["fill"].keys() == {"loaded", "batches", "results"}
    fed.feed(7)
    later = fed.wait_until_done(12)
    assert datetime.fromisoformat(later["heartbeat"]) > datetime.fromisoformat(first["heartbeat"])
    assert later["records_per_second"] > 0
    assert watching(fed.path.parent, "--once").returncode == 0
    assert fed.end() == 0
    last = fed.status()
    assert (last["status"], last["done"], last["total"], last["note"]) == ("finished", 12, 12, None)
    assert not list(fed.path.glob("*.tmp"))


def test_a_run_that_was_stopped_says_so_and_watch_is_not_content(fed):
    fed.process.send_signal(signal.SIGTERM)
    assert fed.process.wait(60) == 143
    assert fed.status()["status"] == "stopped"
    seen = watching(fed.path.parent)
    assert seen.returncode == 1
    assert seen.stdout.startswith("stopped | Progress: 5/")


BEATING = f"""
import sys, threading, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.snapshots import NOW, status_file

file = status_file(Path("RUN"), "streamer · [not markup]")
threading.Thread(target=sys.stdin.read, daemon=True).start()
for _ in range(1000):
    file.write("running", NOW)
    time.sleep(0.1)
    if threading.active_count() == 1:
        break
file.write("finished", NOW)
"""


@pytest.fixture
def beating(tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that says of itself what a run does, until its input ends."""
    (tmp_path / "RUN").mkdir()
    process = Popen([sys.executable, "-c", BEATING], cwd=tmp_path, stdin=subprocess.PIPE)
    while not (tmp_path / "RUN" / "status.json").exists():
        time.sleep(0.05)
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()


def test_watch_shows_the_live_display_in_another_terminal_and_ends_with_the_run(tmp_path, beating):
    main, terminal = pty.openpty()
    watcher = Popen(
        [*COMMAND, "watch", "RUN"],
        cwd=tmp_path,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(terminal)
    screen = pyte.Screen(100, 40)
    stream = pyte.ByteStream(screen)
    seen = ""
    with contextlib.suppress(OSError):  # what a terminal says when the other side is closed
        while data := os.read(main, 65536):
            stream.feed(data)
            shown = "\n".join(screen.display)
            if not seen and "holds the others back" in shown:
                seen = shown
                beating.stdin.close()
    for part in ("streamer · [not markup]", "80/200", "8.5 records/s", "loaded", "peak 1.2 GB"):
        assert part in seen, seen
    assert watcher.wait(60) == 0
    assert "finished | Progress: 80/200 samples" in "\n".join(screen.display)


def test_without_a_terminal_watch_prints_lines(tmp_path, beating):
    watcher = Popen([*COMMAND, "watch", "RUN"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    first = watcher.stdout.readline()
    beating.stdin.close()
    rest, _ = watcher.communicate(timeout=120)
    assert first.startswith("running | Progress: 80/200 samples | Rate: ")
    assert rest.splitlines()[-1].startswith("finished | Progress: 80/200 samples | Rate: ")
    assert "\x1b" not in first + rest
    assert watcher.returncode == 0


def test_a_run_that_was_killed_is_seen_to_be_dead(tmp_path, beating):
    beating.kill()
    beating.wait()
    make_old(tmp_path / "RUN")
    for arguments in ((), ("--once",)):
        seen = watching(tmp_path, *arguments)
        assert seen.returncode == 1
        assert seen.stdout.startswith("silent | Progress: 80/200")
        assert "no sign of life since 20" in seen.stdout
        assert f"process {beating.pid} on" in seen.stdout
        assert "is gone" in seen.stdout


def test_a_run_that_was_killed_is_seen_to_be_dead_at_once(tmp_path, beating):
    beating.kill()
    beating.wait()
    look = Watched(LocalStorage(tmp_path / "RUN")).look()
    assert (look.is_silent, look.is_over, look.exit_code) == (True, True, 1)


def test_a_run_that_hangs_is_told_and_watched_on(tmp_path, beating):
    beating.send_signal(signal.SIGSTOP)
    make_old(tmp_path / "RUN")
    watched = Watched(LocalStorage(tmp_path / "RUN"))
    look = watched.look()
    assert (look.is_silent, look.is_over, look.exit_code) == (True, False, 1)
    assert "hangs" in str(look)
    beating.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 30
    while watched.look().is_silent and time.monotonic() < deadline:
        time.sleep(0.1)
    look = watched.look()
    assert (look.is_silent, look.exit_code, look.now.note) == (False, 0, None)


def test_the_clock_of_another_machine_may_be_wrong(tmp_path):
    file, here = status_file(tmp_path, "title"), [1000.0]
    watched = Watched(LocalStorage(tmp_path), clock=lambda: here[0])

    def say(minutes: int) -> None:
        file.write("running", NOW)
        status = json.loads((tmp_path / "status.json").read_bytes())
        told = datetime.now(UTC) + timedelta(minutes=minutes)
        status |= {"host": "elsewhere", "heartbeat": told.isoformat()}
        (tmp_path / "status.json").write_text(json.dumps(status))

    say(minutes=-10)
    assert watched.look().is_silent  # as far as can be told
    here[0] += 2
    say(minutes=-10)
    assert not watched.look().is_silent
    here[0] += OLD_SECONDS + 1
    assert watched.look().is_silent
    say(minutes=10)
    assert not watched.look().is_silent


def test_what_is_no_run_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text("{}")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "status.json").write_text('{"heartbeat": ')
    for name, message in (
        ("none", "no run in .*none: there is nothing"),
        ("file", "no run in .*file: that is no directory"),
        (".", "no run in .*: that directory has no manifest.json"),
        ("old", r"old is a run without status.json"),
        ("damaged", r"status.json is damaged: .*JSON"),
    ):
        with pytest.raises(UsageError, match=message):
            read_status(LocalStorage(tmp_path / name))
    done = run("watch", "nowhere", folder=tmp_path)
    assert done.returncode == 2
    assert "no run in nowhere" in done.stderr


def test_watching_takes_no_torch(tmp_path):
    status_file(tmp_path, "title").write("finished", NOW)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "streamer", "watch", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert " torch" not in done.stderr
    assert done.stdout.startswith("finished | Progress: 80/200")
