"""How a part of the program reports what happens to it, without knowing who listens."""

from collections.abc import Callable
from typing import Any, TypeAlias

Log: TypeAlias = Callable[[str, dict[str, Any]], None]
"""Takes an event's name and its entries, from any thread; raises nothing."""


def ignore(*_: object) -> None:
    """Does nothing with what is reported."""
