"""A storage that kills the process between two of its steps."""

import os
import signal
from pathlib import Path

from streamer.writing.storage.base import NewFile
from streamer.writing.storage.local import LocalStorage
from streamer.writing.storage.room import NO_WAIT, WaitForRoom


class KillingStorage(LocalStorage):
    """As the local one, but the process is killed as soon as it has done the step `die_at`.

    Of a file, the steps are `created NAME`, `finished NAME`, `renamed NAME`, `published NAME`.
    """

    def __init__(self, root: Path, room: WaitForRoom = NO_WAIT, die_at: str = "") -> None:
        super().__init__(root, room)
        self.die_at = die_at
        self.steps: list[str] = []
        """All that were done."""
        self._renaming = ""

    def create(self, name: str) -> NewFile:
        file = super().create(name)
        finish = file.finish

        def finish_and_die() -> None:
            finish()
            self._done(f"finished {name}")

        file.finish = finish_and_die
        self._done(f"created {name}")
        return file

    def publish(self, file: NewFile) -> None:
        self._renaming = file.name
        super().publish(file)
        self._done(f"published {file.name}")

    def sync_folder(self, folder: Path) -> None:
        if self._renaming:
            self._done(f"renamed {self._renaming}")
            self._renaming = ""
        super().sync_folder(folder)

    def _done(self, step: str) -> None:
        self.steps.append(step)
        if step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


DYING = """
import functools
from streamer.commands.cli import main
from streamer.running import prepare
from support.killing import KillingStorage

prepare.LocalStorage = functools.partial(KillingStorage, die_at={die_at!r})
main({arguments!r})
"""
"""`streamer` with these arguments, killed at a step."""
