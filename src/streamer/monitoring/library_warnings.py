"""Sends the warnings of libraries to the run's log instead of over its display."""

import logging
import warnings
from types import TracebackType
from typing import Self, TextIO

from streamer.concurrency.events import Log

LIBRARIES = ("transformers", "huggingface_hub", "transformer_lens", "sae_lens")


class LibraryWarnings(logging.Handler):
    """While entered, logs the warnings of `LIBRARIES` and of Python's `warnings`, and those of
    other loggers if the program has not configured logging. Restores all that on exit."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._displaced: dict[logging.Logger, list[logging.Handler]] = {}
        self._showwarning = warnings.showwarning

    def emit(self, record: logging.LogRecord) -> None:
        """Part of `logging.Handler`."""
        self._report(record.name, record.getMessage())

    def _report(self, source: str, message: str) -> None:
        self._log("warning", {"from": source, "message": message.strip()})

    def _show(  # noqa: PLR0917
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Replaces `warnings.showwarning`."""
        if file is None:
            text = warnings.formatwarning(message, category, filename, lineno, line)
            self._report("py.warnings", text)
        else:
            self._showwarning(message, category, filename, lineno, file, line)

    def __enter__(self) -> Self:
        # not logging.captureWarnings: it cannot restore the state that the program had set
        self._showwarning, warnings.showwarning = warnings.showwarning, self._show
        root = logging.getLogger()
        if not root.handlers:  # a program that has configured logging keeps it
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
        warnings.showwarning = self._showwarning
