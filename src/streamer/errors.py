"""What can go wrong for the person who runs streamer: two errors, one for each thing they can do.

A message says what was found, where, and what to do.
"""


class StreamerError(Exception):
    """The base of both; `exit_code` is what the command returns for it."""

    exit_code = 1


class UsageError(StreamerError):
    """Something asked for cannot be had: a wrong flag, key, path, model or SAE. Change it."""

    exit_code = 2


class RunFault(StreamerError):
    """A run that had started could not go on: a read or write failed, or a stage broke."""
