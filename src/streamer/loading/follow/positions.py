"""Where followed files were left, to be found by name and by file."""

from collections.abc import Iterable
from pathlib import PurePath

from streamer.records import Position


class Positions:
    """The last place in every file and of every name."""

    def __init__(self, begin: Iterable[Position]) -> None:
        self._of_name: dict[str, Position] = {}
        self._of_file: dict[str, Position] = {}
        self._in_folder: dict[tuple[PurePath, str], Position] = {}
        for place in sorted(begin, key=lambda place: place.position):
            self.put(place)

    def put(self, place: Position) -> None:
        """Take `place` as the last in its file and of its name."""
        self._of_name[place.source] = place
        if place.file is not None:
            self._of_file[place.file] = place
            self._in_folder[_in_folder(place.source, place.file)] = place

    def of_name(self, name: str) -> Position | None:
        """Where the file was left that was last read by this name."""
        return self._of_name.get(name)

    def owned_by(self, name: str) -> Position | None:
        """The same, unless the file was read by another name since."""
        place = self._of_name.get(name)
        if place is None or place.file is None or self._of_file[place.file] != place:
            return None
        return place

    def of_file(self, file: str, name: str) -> list[Position]:
        """Where this file may have been left, which has this name now.

        Devices may be numbered anew by a reboot: then a file is known by its folder and inode.
        """
        found = self._of_file.get(file), self._in_folder.get(_in_folder(name, file))
        return [place for place in found if place is not None]


def _in_folder(name: str, file: str) -> tuple[PurePath, str]:
    return PurePath(name).parent, file.partition(":")[2]
