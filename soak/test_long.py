"""A day in miniature: 200,000 records of an input that grows fast, slowly and not at all, with
rubbish in it, and kills: nothing is lost, and memory, file handles and threads stay what they were.
"""

import itertools
import json
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.compute as pc

import streamer
from bench.scale import make_model
from streamer.writing.commit import read_checkpoint
from streamer.writing.storage.local import LocalStorage
from support.processes import COMMAND, Popen

COUNT = 200_000
SESSIONS = 8
"""The last one takes half of the records, the others end with a kill."""


@dataclass
class Watch:
    """What a process holds, looked at now and then."""

    process: psutil.Process
    memory: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self) -> None:
        self.memory.append(self.process.memory_info().rss)
        self.handles.append(self.process.num_fds())
        self.threads.append(self.process.num_threads())


def line(place: int) -> str:
    if place % 50 == 3:
        return f"rubbish {place}\n"
    return json.dumps({"id": str(place), "text": f"Record {place} of many."}) + "\n"


def feed(path: Path, upto: int, known: int, seed: int) -> None:
    """Append the records from `known` to `upto`, in bursts, in halves of lines, with pauses."""
    moments = random.Random(seed)
    with path.open("a", buffering=1) as file:
        while known < upto:
            burst = min(upto - known, moments.choice([1, 10, 3000, 9000]))
            text = "".join(map(line, range(known, known + burst)))
            half = moments.randrange(len(text))
            for part in (text[:half], text[half:]):
                file.write(part)
                file.flush()
                time.sleep(moments.choice([0.0, 0.0, 0.01, 0.4]))
            known += burst


def test_a_day_in_miniature(tmp_path):
    path, out = tmp_path / "in.jsonl", tmp_path / "RUN"
    path.touch()
    command = ["run", "in.jsonl", "--follow", "--kind", "text", "--out", "RUN"]
    command += ["--part-seconds", "2", "--progress", "none", *make_model(tmp_path)]
    bounds = [COUNT // 2 * n // (SESSIONS - 1) for n in range(SESSIONS)] + [COUNT]
    for session, (known, upto) in enumerate(itertools.pairwise(bounds)):
        feeder = threading.Thread(target=feed, args=(path, upto, known, session))
        feeder.start()
        process = Popen([*COMMAND, *command], cwd=tmp_path)
        watch = Watch(psutil.Process(process.pid))
        last = session == SESSIONS - 1
        goal = COUNT if last else (known + upto) // 2
        while read_checkpoint(LocalStorage(out), "metrics").row < goal:
            time.sleep(0.25)
            watch.look()
        feeder.join()
        process.send_signal(signal.SIGTERM if last else signal.SIGKILL)
        assert process.wait() == (143 if last else -signal.SIGKILL)
    run = streamer.open_run(out)
    ids = [int(one) for one in run.table("metrics")["id"].to_pylist()]
    assert ids == [place for place in range(COUNT) if place % 50 != 3]
    raw = pc.cast(run.table("rejected")["raw"], "string").to_pylist()
    assert raw == [f"rubbish {place}" for place in range(3, COUNT, 50)]
    for what, slack in ((watch.memory, 30 * 2**20), (watch.handles, 1), (watch.threads, 1)):
        third = len(what) // 3
        early, late = what[third : 2 * third], what[2 * third :]
        assert max(late) <= max(early) + slack
