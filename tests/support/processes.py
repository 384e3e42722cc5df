"""The command in processes of its own: started, waited for, killed and taken up again.

Importing torch and the libraries around it takes seconds, and hundreds of tests start a process. So
`Popen` has them forked from one process that has imported everything once. What a process does
while it imports, and how long that takes, is tested with `subprocess.Popen`.
"""

import array
import atexit
import functools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "streamer"]
GOOD = '{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}\n'
TESTS = Path(__file__).parents[1]


class Popen(subprocess.Popen):
    """`subprocess.Popen` for `python -m streamer …` and `python -c …`, forked ready to run.

    A parent in between waits for the process and passes its exit status on: it is not our child.
    """

    def _execute_child(self, args, *settings) -> None:
        """Where `subprocess` forks: everything before and after is its own."""
        folder, env, _, _, _, *pipes = settings[4:15]
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        assert args[0] == sys.executable
        assert args[1] in ("-m", "-c")
        told, self._status = os.pipe()[::-1]
        streams = [theirs if theirs >= 0 else own for theirs, own in
                   zip((p2cread, c2pwrite, errwrite), (0, 1, 2), strict=True)]  # fmt: skip
        environment = {  # libraries behave otherwise where they see that they are tested
            name: value
            for name, value in (os.environ if env is None else env).items()
            if not name.startswith("PYTEST_")
        }
        request = json.dumps(
            [[*map(str, args[1:])], str(folder or Path.cwd()), environment]
        ).encode()
        message = len(request).to_bytes(4, "big") + request
        descriptors = array.array("i", [*streams, told])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        server = _server()
        sent = server.sendmsg([message], rights)
        server.sendall(message[sent:])
        os.close(told)
        self.pid = int.from_bytes(_read(self._status, 4), "big")
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _internal_poll(self, _deadstate=None, **_) -> int | None:
        if self.returncode is None:
            self._try_wait(os.WNOHANG)
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        os.set_blocking(self._status, not wait_flags)
        try:
            status = _read(self._status, 4)
        except BlockingIOError:
            return 0, 0
        finally:
            os.set_blocking(self._status, True)
        code = int.from_bytes(status, "big")
        self._handle_exitstatus(code)
        return self.pid, code


def _read(descriptor: int, size: int) -> bytes:
    found = os.read(descriptor, size)
    assert len(found) == size, "the process that forks others has ended: its errors are above"
    return found


@functools.cache
def _server() -> socket.socket:
    """A connection to the process that forks others; it ends with this one."""
    mine, theirs = socket.socketpair()
    command = [sys.executable, "-c", "from support import forking; forking.serve()"]
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    server = subprocess.Popen(
        command, stdin=theirs, env={**os.environ, "PYTHONPATH": path}, start_new_session=True
    )
    theirs.close()
    atexit.register(lambda: (mine.close(), server.wait()))
    return mine


def run_python(*arguments: str, folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """`python` with these arguments (`-m streamer …` or `-c …`), run in `folder` to its end."""
    timeout = settings.pop("timeout", 120)
    content = settings.pop("input", None)
    if content is not None:
        settings["stdin"] = subprocess.PIPE
    with Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    ) as process:
        try:
            output, errors = process.communicate(content, timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run(*arguments: str, folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """`streamer` with these arguments, run in `folder` to its end."""
    return run_python("-m", "streamer", *arguments, folder=folder, **settings)


def wait_for_start(process: subprocess.Popen, folder: Path) -> None:
    log = folder / "RUN" / "log.jsonl"
    while not (log.exists() and "started" in log.read_text()):
        time.sleep(0.02)
        assert process.poll() is None


def wait_until_done(process: subprocess.Popen, folder: Path, records: int) -> None:
    """Return when so many records have been through the device of the run in `folder`/RUN."""
    status = folder / "RUN" / "status.json"
    while not status.exists() or json.loads(status.read_bytes())["done"] < records:
        time.sleep(0.02)
        assert process.poll() is None


def run_with_kills(
    folder: Path, arguments: list[str], *, kills: int, seed: int, latest: float, **settings: Any
) -> int:
    """Run to the end, killed `kills` times at moments drawn from `seed`, at most `latest` seconds
    after it has gone on. Returns how often it was killed before its end."""
    moments = random.Random(seed)
    killed = 0
    log = folder / "RUN" / "log.jsonl"
    for _ in range(kills):
        seen = log.stat().st_size if log.exists() else 0
        process = Popen([*COMMAND, *arguments], cwd=folder, **settings)
        while process.poll() is None and not (log.exists() and log.stat().st_size > seen):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, latest))
        process.kill()
        code = process.wait()
        killed += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL)
    assert Popen([*COMMAND, *arguments], cwd=folder, **settings).wait() == 0
    return killed
