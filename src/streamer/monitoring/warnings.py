"""Where the libraries underneath speak: into the run's log, not over its display."""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

Log = Callable[[str, dict[str, Any]], None]


class LibraryWarnings(logging.Handler):
    """While it is entered, takes every warning that Python's logging or warnings carry.

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
        named = [
            logger
            for logger in root.manager.loggerDict.values()
            if isinstance(logger, logging.Logger) and logger.handlers
        ]
        for logger in (root, *named):
            self._displaced[logger] = logger.handlers
            # A logger that does not pass upwards needs the handler itself
            logger.handlers = [self] if logger is root or not logger.propagate else []
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for logger, handlers in self._displaced.items():
            logger.handlers = handlers
        logging.captureWarnings(False)
        self._log = None
