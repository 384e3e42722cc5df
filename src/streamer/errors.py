"""What can go wrong for the person who runs streamer: an error for each thing they can do.

    StreamerError       exit code     what to do
    ├── UsageError      2             change the request: nothing was written
    └── RunFault        1             fix what the message names, and resume
        └── Overdue     128 + signal  resume: the run was stopped, and did not end in time

A message says what was found, where, and what to do. Any other exception is a bug in this program,
except `KeyboardInterrupt`, which `streamer.run` raises when it was stopped.
"""

LONGEST = 300
"""Most characters quoted from a library's error."""


class StreamerError(Exception):
    """The base of all errors here; `exit_code` is what the command returns for it."""

    exit_code = 1


class UsageError(StreamerError):
    """Something in the request is wrong: a flag, key, path, model or SAE. Change it."""

    exit_code = 2


class RunFault(StreamerError):
    """A run that had started cannot continue: a read or write failed, or a stage broke."""


def cause_of(error: BaseException) -> BaseException:
    """The first error inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def one_line(error: BaseException) -> str:
    """A library's error as part of a message: its type, and the first line of its text."""
    text = str(error).strip().partition("\n")[0][:LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
