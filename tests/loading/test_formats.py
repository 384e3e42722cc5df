"""Which format the matrix products run in, and which wishes contradict each other."""

import pytest
import torch
from pydantic import ValidationError

from streamer.computing.model.precision import pick_autocast
from streamer.config import RunConfig, load_config
from streamer.errors import UsageError


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_on_an_accelerator_it_is_the_format_that_is_asked_for(device):
    def picked(**settings: bool) -> tuple[torch.dtype | None, str]:
        return pick_autocast(RunConfig(**settings), torch.device(device))

    assert picked(fp16=True) == (torch.float16, "")
    assert picked(bf16=True) == (torch.bfloat16, "")
    assert picked() == (None, "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fp16": True, "bf16": True}, "fp16 and bf16 exclude each other"),
        ({"fp16": True, "dtype": "float16"}, "fp16 needs dtype = 'float32', found 'float16'"),
        ({"bf16": True, "dtype": "float64"}, "bf16 needs dtype = 'float32', found 'float64'"),
    ],
)
def test_formats_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        load_config(overrides=settings)
    with pytest.raises(ValidationError, match=message):
        RunConfig(**settings)
