"""What tests of growing files share."""

import pytest

from streamer.loading.follow import follower as following
from streamer.loading.follow import growing_file as growing


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    for module in (following, growing):
        monkeypatch.setattr(module, "SETTLED_SECONDS", 0.05)
