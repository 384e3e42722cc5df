"""Commands in this process."""

import pytest

from streamer.commands import cli

FEW = ["--records", "6", "--progress", "none"]
"""Of `tune` and `verify`: so few records, and no line before the model is loaded."""


def command(*arguments: str) -> int:
    """The exit code of `streamer` with these arguments."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return int(exit_.value.code or 0)
