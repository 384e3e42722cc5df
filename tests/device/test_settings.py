"""What a run sets for the whole process holds while it runs, and is put back behind it."""

import os
from typing import Any

import pytest
import torch

from streamer.device.settings import settings_for
from support.runs import run_with

CPU = torch.device("cpu")


def as_it_is() -> dict[str, Any]:
    """Everything that is set for the whole process."""
    backends: Any = torch.backends
    return {
        "products": torch.get_float32_matmul_precision(),
        "convolutions": backends.cudnn.allow_tf32,
        "cuda": backends.cuda.matmul.fp32_precision,
        "cudnn": (backends.cudnn.conv.fp32_precision, backends.cudnn.rnn.fp32_precision),
        "mkldnn": (backends.mkldnn.matmul.fp32_precision, backends.mkldnn.conv.fp32_precision),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "threads": torch.get_num_threads(),
        "environment": dict(os.environ),
    }


@pytest.fixture(params=["highest", "high"])
def caller(request):
    """A caller who has allowed float32 products in TF32 or bfloat16, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("caller")
@pytest.mark.parametrize("deterministic", [False, True])
def test_what_a_run_sets_holds_within_and_is_put_back(deterministic, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    before = as_it_is()
    with settings_for(CPU, deterministic=deterministic) as said:
        assert torch.get_float32_matmul_precision() == said["float32_products"] == "highest"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert not torch.backends.cudnn.allow_tf32
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert said["deterministic_algorithms"] == deterministic
        assert said["threads"] == torch.get_num_threads()
        assert os.environ["TOKENIZERS_PARALLELISM"] == said["TOKENIZERS_PARALLELISM"] == "false"
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
        with settings_for(CPU, deterministic=deterministic) as again:
            assert again == said
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert as_it_is() == before


def test_a_container_that_gets_two_cores_time_has_two_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr("streamer.device.settings.cores_in_groups", lambda: 2)
    try:
        with settings_for(CPU, deterministic=False) as settings:
            assert torch.get_num_threads() == settings["threads"] == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_it_is_put_back_though_the_run_fails():
    before = as_it_is()
    with pytest.raises(ValueError, match="no"), settings_for(CPU, deterministic=True):
        raise ValueError("no")
    assert as_it_is() == before


def test_what_the_caller_set_by_library_is_put_back():
    backends: Any = torch.backends
    backends.cuda.matmul.fp32_precision = "tf32"  # from here on the old way cannot be read
    try:
        with settings_for(CPU, deterministic=False):
            assert backends.cuda.matmul.fp32_precision == "ieee"
        assert backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        backends.cuda.matmul.fp32_precision = "none"


def test_a_variable_that_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with settings_for(CPU, deterministic=False) as said:
        assert said["TOKENIZERS_PARALLELISM"] == "true"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


@pytest.mark.usefixtures("caller")
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_leaves_the_process_as_it_was_and_its_manifest_says_what_held(
    tmp_path, deterministic
):
    before = as_it_is()
    run, _ = run_with(None, out=tmp_path / "RUN", limit=6, deterministic=deterministic)
    assert as_it_is() == before
    settings = run.manifest["settings"]
    assert settings["float32_products"] == "highest"
    assert settings["deterministic_algorithms"] == deterministic
    assert settings["threads"] == torch.get_num_threads()
