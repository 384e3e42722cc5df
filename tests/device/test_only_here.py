"""`device/` is the only room that asks what kind of device one is."""

import re
from pathlib import Path

import pytest

import streamer

PACKAGE = Path(streamer.__file__).parent
ASKS = re.compile(
    r"""\.type\s*(==|!=|in\b|not\s+in\b)   # device.type == …
    |["'](cuda|mps)[:"']                   # the kinds by name
    |\[\s*(self\.)?(\w+\.)*device\.type\s*\]
    |\b(torch|backends)\.(cuda|mps|backends)\b
    |\bis_(cuda|mps|cpu)\b
    |\bset_num_threads\b|\buse_deterministic_algorithms\b|\bset_float32_matmul_precision\b
    |\bos\.environ\[[^]]*\]\s*=[^=]|\bos\.environ\.(setdefault|update)""",
    re.VERBOSE,
)
NOT_OF_A_DEVICE = re.compile(r"column\.type|field\.type")


def asking(text: str) -> list[str]:
    """The lines of a program that ask what kind of device one is, or set up the process for it."""
    return [
        line.strip()
        for line in text.splitlines()
        if ASKS.search(line) and not NOT_OF_A_DEVICE.search(line)
    ]


def test_no_other_room_asks_what_kind_of_device_it_is():
    found = {
        str(file.relative_to(PACKAGE)): lines
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).parts[0] != "device"
        and (lines := asking(file.read_text("utf-8")))
    }
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        'if device.type == "cpu":',
        "if self.model.device.type != kind:",
        'if x.device.type in ("cuda", "mps"):',
        'MOST = {"cpu": 1, "mps": 2}',
        "most = MOST[model.device.type]",
        "torch.cuda.empty_cache()",
        "torch.backends.mps.is_available()",
        "if tensor.is_cuda:",
        "torch.set_num_threads(1)",
        'os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")',
        'os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"',
    ],
)
def test_every_way_to_ask_is_seen(line):
    assert asking(line)
