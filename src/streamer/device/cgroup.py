"""What the control groups of this process leave it: a container's limits, on Linux.

A group's limit holds for all processes in it and in the groups below it, so every group from this
process' own up to the root counts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class _Version:
    """Where a version of control groups keeps what it knows of the memory, all of it bytes."""

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
ROOT = Path("/")
"""Of the file system; tests have another."""


def free_in_groups(root: Path = ROOT) -> int | None:
    """Bytes that the tightest group of this process still has; None if none has a limit."""
    free = [
        left
        for controller, version in (("memory", V1), ("", V2))
        for group in _groups(root, controller, version.mounts)
        if (left := _free_in(group, version)) is not None
    ]
    return min(free, default=None)


def cores_in_groups(root: Path = ROOT) -> int | None:
    """How many cores' time the tightest group of this process gets, at least 1; None if none has a
    limit. More threads than that are all stopped whenever the time is used up."""
    version_1 = (_quota_v1(group) for group in _groups(root, "cpu", ("cpu", "cpu,cpuacct")))
    version_2 = (_quota_v2(group) for group in _groups(root, "", V2.mounts))
    quotas = [quota for quota in (*version_1, *version_2) if quota is not None]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _groups(root: Path, controller: str, mounts: tuple[str, ...]) -> Iterator[Path]:
    """The groups of this process that have `controller`, and all around them; empty means those of
    version 2, which have all. /proc names them in lines `number:controllers:path`."""
    try:
        own = (root / "proc/self/cgroup").read_text("utf-8")
    except OSError:  # not Linux
        return
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            for mount in mounts:
                yield from _up_from(root / "sys/fs/cgroup" / mount, path)


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


def _quota_v1(group: Path) -> float | None:
    """Cores that `group` may use, on average; None if it has no limit, or is not there."""
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text("utf-8"))
        period = int((group / "cpu.cfs_period_us").read_text("utf-8"))
    except OSError:
        return None
    return quota / period if quota > 0 else None


def _quota_v2(group: Path) -> float | None:
    """The same."""
    try:
        quota, period = (group / "cpu.max").read_text("utf-8").split()
    except OSError:
        return None
    return None if quota == "max" else int(quota) / int(period)
