"""The command in processes of its own: run, waited for, killed and taken up again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "streamer"]
GOOD = '{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}\n'
FORKING = """
import os, sys
from streamer.commands.cli import main
import streamer.running.run, streamer.running.resume, streamer.results.summary
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        main(eval(line))
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def run(*arguments: str, folder: Path, **settings) -> subprocess.CompletedProcess[str]:
    """`streamer` with these arguments, run in `folder`."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **settings,
    )


def wait_for_start(process: subprocess.Popen, folder: Path) -> None:
    log = folder / "RUN" / "log.jsonl"
    while not (log.exists() and "started" in log.read_text()):
        time.sleep(0.1)
        assert process.poll() is None


class Starter:
    """Starts `streamer` quickly, many times: forked from a process that has imported torch."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("ab"),
            text=True,
            env=os.environ | environment,
        )

    def start(self, *arguments: str) -> int:
        """The process id of `streamer` with these arguments."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{[*arguments]!r}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> int:
        """The exit code of what was started."""
        assert self._process.stdout
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def run_with_kills(
    starter: Starter, folder: Path, arguments: list[str], *, kills: int, seed: int, latest: float
) -> int:
    """Run to the end, killed `kills` times at moments drawn from `seed`, at most `latest` seconds
    after it has gone on. Returns how often it was killed before its end."""
    moments = random.Random(seed)
    killed = 0
    log = folder / "RUN" / "log.jsonl"
    for _ in range(kills):
        seen = log.stat().st_size if log.exists() else 0
        child = starter.start(*arguments)
        while _alive(child) and not (log.exists() and log.stat().st_size > seen):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, latest))
        if _alive(child):
            os.kill(child, signal.SIGKILL)
        code = starter.wait()
        killed += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL)
    starter.start(*arguments)
    assert starter.wait() == 0
    return killed


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
