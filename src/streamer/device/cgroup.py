"""What the control groups of this process leave it of the memory: a container's limit, on Linux.

A group's limit holds for all processes in it and in the groups below it, so every group from this
process' own up to the root counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class _Version:
    """Where a version of control groups keeps its numbers, all of them bytes."""

    mounts: tuple[str, ...]
    """Below /sys/fs/cgroup."""
    limit: str
    used: str
    reclaimable: tuple[str, ...]
    """Entries of memory.stat: used, but given up by the kernel before anything is killed. Pages of
    files that are in active use are not among them: they would be read again at once."""


V1 = _Version(
    ("memory",), "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file",)
)
V2 = _Version(
    ("", "unified"), "memory.max", "memory.current", ("inactive_file", "slab_reclaimable")
)


def free_in_groups(root: Path = Path("/")) -> int | None:
    """Bytes that the tightest group of this process still has; None if none has a limit. `root` is
    the file system's, for tests."""
    try:
        own = (root / "proc/self/cgroup").read_text("utf-8")
    except OSError:  # not Linux
        return None
    free = [
        left
        for version, path in _own_groups(own)
        for mount in version.mounts
        for group in _up_from(root / "sys/fs/cgroup" / mount, path)
        if (left := _free_in(group, version)) is not None
    ]
    return min(free, default=None)


def _own_groups(text: str) -> Iterator[tuple[_Version, str]]:
    """Those that manage memory, from lines `number:controllers:path`; version 2 names none."""
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield V2, path
        elif "memory" in controllers.split(","):
            yield V1, path


def _up_from(mount: Path, path: str) -> Iterator[Path]:
    """The group at `path` below `mount`, and all around it. Within a container the path may be the
    host's, of which nothing is mounted but the innermost group, as the root."""
    group = PurePosixPath(path.lstrip("/"))
    for each in (group, *group.parents):
        if ".." not in each.parts:  # outside of what this process may see
            yield mount / each


def _free_in(group: Path, version: _Version) -> int | None:
    """Bytes that `group` still has; None if it has no limit, or is not there."""
    try:
        limit = (group / version.limit).read_text("utf-8").strip()
        if limit == "max":
            return None
        used = int((group / version.used).read_text("utf-8"))
        lines = (group / "memory.stat").read_text("utf-8").splitlines()
    except OSError:
        return None
    entries = dict(line.split() for line in lines)
    reclaimable = sum(int(entries.get(name, 0)) for name in version.reclaimable)
    return max(0, int(limit) - max(0, used - reclaimable))
