"""Fixtures that test files of several rooms share."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).resolve().parent
os.environ["OMP_NUM_THREADS"] = "1"  # tests run in more processes than there are cores
os.environ["XDG_CACHE_HOME"] = str(TESTS.parent / ".pytest_cache" / "user")  # not the user's own
# so that the processes of tests find `bench` and `support`, wherever they run
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*filter(None, [os.environ.get("PYTHONPATH")]), str(TESTS.parent), str(TESTS)]
)

# ruff: noqa: E402 (torch looks at the threads when it is imported)

from streamer.computing.worker import Worker
from support.runs import embedded

hypothesis.settings.register_profile(  # a busy machine is no failure
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
SHARED = TESTS.parents[1] / "shared" / "data"


@pytest.fixture(scope="session")
def embedded_worker() -> Callable[[str], Worker]:
    """The embedded model and SAEs as a worker for records of a kind."""
    return embedded


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real records and tokenizers that lie beside the project, not in it."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED.parent.name}/{SHARED.name} beside the project: real data absent")
    return SHARED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, soon full."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)
