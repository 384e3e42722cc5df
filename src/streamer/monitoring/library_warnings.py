"""Where the libraries underneath speak: into the run's log, not over its display."""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

LIBRARIES = ("py.warnings", "transformers", "huggingface_hub", "transformer_lens", "sae_lens")
Log = Callable[[str, dict[str, Any]], None]


class LibraryWarnings(logging.Handler):
    """While it is entered, takes the warnings of `LIBRARIES`, and what nobody else handles.

    What comes before `send_to` waits for it.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._waiting: list[dict[str, Any]] = []
        self._log: Log | None = None
        self._displaced: dict[logging.Logger, list[logging.Handler]] = {}

    def send_to(self, log: Log) -> None:
        """Pass on what was taken so far, and from now on."""
        self._log = log
        waiting, self._waiting = self._waiting, []
        for entries in waiting:
            log("warning", entries)

    def emit(self, record: logging.LogRecord) -> None:
        """Part of `logging.Handler`."""
        entries = {"from": record.name, "message": record.getMessage().strip()}
        if self._log is None:
            self._waiting.append(entries)
        else:
            self._log("warning", entries)

    def __enter__(self) -> Self:
        logging.captureWarnings(True)
        root = logging.getLogger()
        if not root.handlers:  # a program that has arranged its logging keeps it
            root.addHandler(self)
        for name in LIBRARIES:
            logger = logging.getLogger(name)
            self._displaced[logger] = list(logger.handlers)
            for handler in self._displaced[logger]:
                logger.removeHandler(handler)
            if not logger.propagate or self not in root.handlers:
                logger.addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logging.getLogger().removeHandler(self)
        for logger, handlers in self._displaced.items():
            logger.removeHandler(self)
            for handler in handlers:
                logger.addHandler(handler)
        logging.captureWarnings(False)
        self._log = None
