"""The memory and the cores that control groups leave, from files as Linux has them."""

from pathlib import Path

import pytest

from streamer.device.cgroup import cores_in_groups, free_in_groups

MB = 2**20
NO_LIMIT_V1 = 9223372036854771712


@pytest.fixture
def root(tmp_path):
    """A file system without a control group."""
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def is_in(root: Path, *lines: str) -> None:
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))


def v1(root: Path, path: str, limit: int, used: int, inactive: int = 0) -> None:
    group = root / "sys/fs/cgroup/memory" / path
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{used}\n")
    stat = f"cache 9\ninactive_file 1\ntotal_active_file 7\ntotal_inactive_file {inactive}\n"
    (group / "memory.stat").write_text(stat)


def v2(root: Path, path: str, limit: int | str, used: int, inactive: int = 0) -> None:
    group = root / "sys/fs/cgroup" / path
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    stat = f"anon 5\nactive_file 7\ninactive_file {inactive}\nslab_reclaimable {MB}\n"
    (group / "memory.stat").write_text(stat)


def test_without_groups_or_limits_there_is_none(root):
    assert free_in_groups(root) is None
    is_in(root, "0::/user.slice")
    assert free_in_groups(root) is None
    v2(root, "user.slice", "max", 10)
    assert free_in_groups(root) is None


def test_a_group_of_version_2_has_its_limit_less_what_cannot_be_reclaimed(root):
    is_in(root, "0::/job")
    v2(root, "job", 100 * MB, 60 * MB, inactive=20 * MB)
    assert free_in_groups(root) == (100 - 60 + 20 + 1) * MB


def test_a_group_of_version_1_has_its_limit_less_what_cannot_be_reclaimed(root):
    is_in(root, "5:devices:/", "4:cpu,memory:/job", "0::/")
    v1(root, "job", 100 * MB, 60 * MB, inactive=20 * MB)
    assert free_in_groups(root) == (100 - 60 + 20) * MB


def test_groups_around_count_too_with_all_that_is_in_them(root):
    is_in(root, "0::/pod/container/worker")
    v2(root, "pod", 100 * MB, 95 * MB)
    v2(root, "pod/container", 80 * MB, 10 * MB)
    v2(root, "pod/container/worker", "max", 5 * MB)
    assert free_in_groups(root) == (100 - 95 + 1) * MB


def test_within_a_container_the_host_path_is_not_mounted_and_the_root_is_the_container(root):
    is_in(root, "4:memory:/docker/0123456789ab")
    v1(root, "", 100 * MB, 60 * MB)
    assert free_in_groups(root) == 40 * MB


def test_a_path_out_of_the_namespace_leads_nowhere(root):
    is_in(root, "0::/../other")
    v2(root, "", 100 * MB, 60 * MB)
    v2(root, "other", 10 * MB, 0)
    assert free_in_groups(root) == 41 * MB


def test_a_group_that_is_over_its_limit_has_nothing(root):
    is_in(root, "0::/job")
    v2(root, "job", 10 * MB, 60 * MB)
    assert free_in_groups(root) == 0


def test_a_version_1_group_without_a_limit_has_more_than_any_machine(root):
    is_in(root, "4:memory:/job")
    v1(root, "job", NO_LIMIT_V1, 60 * MB)
    assert free_in_groups(root) > 2**60


def test_both_versions_at_once_count_each(root):
    is_in(root, "4:memory:/job", "0::/job")
    v1(root, "job", 100 * MB, 60 * MB)
    v2(root, "unified/job", 30 * MB, 0)
    assert free_in_groups(root) == 30 * MB


def test_without_groups_or_limits_all_cores_are_there(root):
    assert cores_in_groups(root) is None
    is_in(root, "4:cpu,cpuacct:/job", "0::/job")
    cpu_v1(root, "job", -1)
    cpu_v2(root, "job", "max 100000")
    assert cores_in_groups(root) is None


def test_the_tightest_limit_of_cpu_time_counts_and_a_part_of_a_core_is_one(root):
    is_in(root, "0::/pod/container")
    cpu_v2(root, "pod", "400000 100000")
    assert cores_in_groups(root) == 4
    cpu_v2(root, "pod/container", "250000 100000")
    assert cores_in_groups(root) == 3
    cpu_v2(root, "pod/container", "5000 100000")
    assert cores_in_groups(root) == 1


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_cpu_time_is_limited_in_version_1_too(root, mount):
    is_in(root, "4:cpu,cpuacct:/job")
    cpu_v1(root, "job", 200_000, mount)
    assert cores_in_groups(root) == 2


def cpu_v1(root: Path, path: str, quota: int, mount: str = "cpu") -> None:
    group = root / "sys/fs/cgroup" / mount / path
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")


def cpu_v2(root: Path, path: str, limit: str) -> None:
    group = root / "sys/fs/cgroup" / path
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.max").write_text(f"{limit}\n")
