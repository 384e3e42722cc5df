"""Where reading stopped in followed files, by name and by file."""

from collections.abc import Iterable
from pathlib import PurePath

from streamer.records import Position


class Positions:
    """The last position in every file, and the last by every name."""

    def __init__(self, begin: Iterable[Position]) -> None:
        self._of_name: dict[str, Position] = {}
        self._of_file: dict[str, Position] = {}
        self._in_folder: dict[tuple[PurePath, str], Position] = {}
        for position in sorted(begin, key=lambda one: one.position):
            self.put(position)

    def put(self, position: Position) -> None:
        """Take `position` as the last in its file and of its name."""
        self._of_name[position.source] = position
        if position.file is not None:
            self._of_file[position.file] = position
            self._in_folder[_in_folder(position.source, position.file)] = position

    def of_name(self, name: str) -> Position | None:
        """Where the file was left that was last read by this name."""
        return self._of_name.get(name)

    def owned_by(self, name: str) -> Position | None:
        """The same, unless the file was read by another name since."""
        position = self._of_name.get(name)
        if position is None or position.file is None or self._of_file[position.file] != position:
            return None
        return position

    def of_file(self, file: str, name: str) -> list[Position]:
        """Where this file may have been left, which has this name now.

        Devices may be numbered anew by a reboot: then a file is known by its folder and inode.
        """
        found = self._of_file.get(file), self._in_folder.get(_in_folder(name, file))
        return [position for position in found if position is not None]


def _in_folder(name: str, file: str) -> tuple[PurePath, str]:
    return PurePath(name).parent, file.partition(":")[2]
