"""Which device a run gets."""

import pytest
import torch

from streamer.device.pick import owned_by_this_thread, pick_device
from streamer.errors import UsageError


@pytest.fixture
def machine(monkeypatch):
    """A machine with these devices, as far as can be asked."""

    def has(*, cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


def test_auto_is_cuda_where_there_is_one_and_else_the_cpu(machine):
    machine(cuda=1)
    assert pick_device("auto") == (torch.device("cuda"), "")
    machine()
    assert pick_device("auto") == (torch.device("cpu"), "")


def test_on_a_mac_auto_is_the_cpu_and_says_why_and_mps_is_had_by_name(machine):
    machine(mps=True)
    device, note = pick_device("auto")
    assert device == torch.device("cpu")
    assert "has not been run on Apple's GPU" in note
    assert "--device mps" in note
    assert pick_device("mps") == (torch.device("mps"), "")


def test_a_device_that_is_not_there_is_told(machine):
    machine()
    with pytest.raises(UsageError, match=r"device 'cuda' is not on this machine.*sees only cpu"):
        pick_device("cuda")
    machine(cuda=2)
    with pytest.raises(UsageError, match=r"device 'cuda:2' is not .* has 2 CUDA device"):
        pick_device("cuda:2")
    with pytest.raises(UsageError, match="device 'gpu' is unknown"):
        pick_device("gpu")


def test_a_thread_that_owns_a_device_makes_it_its_own_and_gives_it_back(monkeypatch):
    current = [0]

    def exchange(to: int) -> int:
        before = current[-1]
        current.append(to)
        return before

    # what torch.cuda.device calls; the second does not make a context on the device it goes back to
    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)
    with owned_by_this_thread(torch.device("cuda:3")):
        assert current == [0, 3]
    assert current == [0, 3, 0]
    with owned_by_this_thread(torch.device("cpu")):
        assert current == [0, 3, 0]
