"""A reader of growing files that remembers where it is, and what writers of logs do."""

import time
from itertools import islice
from pathlib import Path

from streamer.concurrency.retry import RetryPolicy
from streamer.loading.follow.follower import Follower
from streamer.records import Item, Position


class Reader:
    """Reads what follows, and remembers where it is."""

    def __init__(self, *paths: Path, begin: tuple[Position, ...] = ()) -> None:
        self.events: list[dict] = []
        self.stops_waiting = False
        """Whether the run is stopped as soon as it waits for a file that fails."""
        self.retries = RetryPolicy(
            log=lambda event, entries: self.events.append({"event": event} | entries),
            on_wait=self._wait,
        )
        names = [str(path) for path in paths]
        self._items = Follower(names, lambda _: None, begin, self.retries).items(0)
        self.positions = {position.key: position for position in begin}

    def _wait(self, reason: str | None) -> None:
        if reason and self.stops_waiting:
            self.retries.stopped.set()

    def read(self) -> list[str]:
        """All that has come."""
        found: list[Item] = []
        for item in islice(self._items, 10_000):
            if item is None:
                break
            found.append(item)
            self.positions[item.origin.key] = Position.behind(item.origin)
        return [item.raw.decode() for item in found]

    def read_on(self, seconds: float = 0.3) -> list[str]:
        """All that comes, until for a while nothing does."""
        found, idle = [], 0
        deadline = time.monotonic() + seconds
        while idle < 5 or time.monotonic() < deadline:
            more = self.read()
            found += more
            idle = 0 if more else idle + 1
            deadline = time.monotonic() + seconds if more else deadline
        return found

    @property
    def notes(self) -> list[str]:
        return [event["note"] for event in self.events if event["event"] == "note"]

    def again(self, *paths: Path) -> "Reader":
        """Another, that goes on from here."""
        return Reader(*paths, begin=tuple(self.positions.values()))


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def rotate(path: Path, name: str) -> Path:
    return path.rename(path.parent / name)
