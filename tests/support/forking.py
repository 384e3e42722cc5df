"""The process that has imported everything, and forks a new one for each that a test starts."""

import gc
import importlib
import io
import json
import os
import signal
import socket
import sys

from huggingface_hub import constants

IMPORTED = (
    "streamer.running.run",
    "streamer.running.resume",
    "streamer.results.summary",
    "streamer.commands.cli",
)


def serve() -> None:
    """Fork for each request that comes from standard input, a socket, until it is closed.

    A request is its length and JSON: arguments, working directory, environment. With it come four
    descriptors: the standard streams, and one for the process id and, later, its exit status.
    """
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else each fork would go through all of this, and so copy it, to end
    connection = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    while True:
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 4)
        if not head:
            return
        request = b""
        while len(request) < int.from_bytes(head, "big"):
            request += connection.recv(2**20)
        if not os.fork():
            connection.close()
            _wait_for_child(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _wait_for_child(request: bytes, descriptors: list[int]) -> None:
    """In between: fork, tell the process id, wait, tell the status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, status = descriptors
    child = os.fork()
    if not child:
        os.close(status)
        _become(streams, *json.loads(request))
        return
    for number in streams:
        os.close(number)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # nobody's pipe is held open here
    os.write(status, child.to_bytes(4, "big"))
    _, code = os.waitpid(child, 0)
    os.write(status, code.to_bytes(4, "big"))
    os._exit(0)


def _become(
    streams: list[int], arguments: list[str], folder: str, environment: dict[str, str]
) -> None:
    """What the interpreter would be with these arguments. Ends the process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # it was read when it was imported
    constants.HF_HUB_CACHE = environment.get("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    constants.HF_HUB_OFFLINE = environment.get("HF_HUB_OFFLINE") == "1"
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            open(number, "wb", closefd=False),  # noqa: SIM115
            line_buffering=number == 2 or os.isatty(number),
        )
        for number in (1, 2)
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    form, what, *rest = arguments
    if form == "-c":
        sys.argv = ["-c", *rest]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [what, *rest]
        importlib.import_module(f"{what}.__main__").main()
    sys.exit()
