"""What can go wrong for the person who runs streamer: an error for each thing they can do.

    StreamerError       exit code     what to do
    ├── UsageError      2             change what was asked for: nothing was written
    └── RunFault        1             mend what the message names, and resume
        └── Overdue     128 + signal  resume: the run was stopped, and did not end in time

A message says what was found, where, and what to do. Everything else that is raised is a fault of
this program, except `KeyboardInterrupt`, which `streamer.run` raises when it was stopped.
"""

LONGEST = 300
"""Characters that are taken over from an error of others."""


class StreamerError(Exception):
    """The base of both; `exit_code` is what the command returns for it."""

    exit_code = 1


class UsageError(StreamerError):
    """Something asked for cannot be had: a wrong flag, key, path, model or SAE. Change it."""

    exit_code = 2


class RunFault(StreamerError):
    """A run that had started could not go on: a read or write failed, or a stage broke."""


def cause_of(error: BaseException) -> BaseException:
    """The first error behind groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def one_line(error: BaseException) -> str:
    """An error of others as part of a message: its name, and the first line of what it says."""
    said = str(error).strip().partition("\n")[0][:LONGEST]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
