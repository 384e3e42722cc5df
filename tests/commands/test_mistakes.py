"""What a user may get wrong: told in a moment, in words that help, with exit code 2."""

import os
import re
import time

import pytest

from support.processes import GOOD, run, run_python

BAD = {
    "no such file": (["nowhere.json"], "nothing to read at nowhere.json"),
    "an empty directory": (["empty"], "nothing to read at empty"),
    "an unknown flag": (["--btach-size", "3"], "Unknown option: .*btach-size"),
    "a wrong value": (["--batch-size", "0"], "batch_size: .*greater than or equal to 1.*found 0"),
    "a value of a wrong type": (["--limit", "many"], "limit"),
    "an unknown key": (
        ["--config", "bad.toml"],
        "bad.toml: btach_size: .*did you mean 'batch_size'",
    ),
    "no TOML": (["--config", "in.jsonl"], "in.jsonl is not valid TOML"),
    "no configuration": (["--config", "none.toml"], "cannot read the configuration none.toml"),
    "a model directory that is none": (
        ["--model", "./empty", "--sae", "x/{layer}", "--layers", "1"],
        "no model in empty: it has no config.json",
    ),
    "a model path to nothing": (
        ["--model", "./none", "--sae", "x/{layer}", "--layers", "1"],
        "no model at ./none",
    ),
    "a model without its SAEs": (["--model", "gpt2"], "model = 'gpt2' needs SAEs trained on it"),
    "a missing SAE file": (["--sae", "./saes/{layer}"], "no SAE for layer 1 in ./saes/1: cfg.json"),
    "a template without a layer": (["--sae", "./saes"], "needs {layer} in it"),
    "layers that are no numbers": (["--layers", "1-3"], "--layers 1-3: expected numbers"),
    "layers out of order": (["--layers", "3,1"], "increasing order"),
    "an unknown role": (["--field", "answer=a"], "'answer' is not a role"),
    "a role without a key": (["--field", "text"], "--field text: expected NAME=VALUE"),
    "an unknown type": (["--carry", "n=int"], "carry.n: .*found 'int'"),
    "records of no kind": (["odd.jsonl"], "odd.jsonl, record 0, has the keys question"),
    "a taken output": (["--out", "taken"], "taken holds something else already"),
    "an output that is a file": (["--out", "in.jsonl"], "in.jsonl is a file"),
    "a file of another user": (["secret.jsonl"], "cannot read secret.jsonl: permission denied"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name in ("empty", "taken", "saes"):
        (folder / name).mkdir()
    (folder / "taken" / "file").write_text("x")
    (folder / "bad.toml").write_text("btach_size = 3\n")
    (folder / "in.jsonl").write_text(GOOD)
    (folder / "odd.jsonl").write_text('{"question": "why?"}\n')
    (folder / "secret.jsonl").write_text(GOOD)
    (folder / "secret.jsonl").chmod(0)
    return folder


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_told_in_a_moment_with_exit_code_2(folder, case):
    arguments, message = BAD[case]
    if "secret.jsonl" in arguments and os.geteuid() == 0:
        pytest.skip("root reads every file")
    done = run("run", *arguments, folder=folder)
    told = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert re.search(message, told), told
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("runs/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model", "no-such/model", "--sae", "x/{layer}", "--layers", "1"],
            "unknown model 'no-such/model'",
        ),
        (
            ["--sae", "gemma-scope-2b-pt/layer_{layer}", "--layers", "1"],
            "no SAE at gemma-scope-2b-pt/layer_1: .*SAELens knows no release",
        ),
    ],
)
def test_what_no_hub_knows_is_told_within_seconds(folder, arguments, message):
    begin = time.monotonic()
    done = run("run", *arguments, folder=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert re.search(message, " ".join(done.stderr.split())), done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 60  # not a speed: that nobody waits out a network


def test_a_working_directory_that_is_gone_is_told(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    removing = "import os; os.rmdir(os.getcwd()); from streamer.commands.cli import main; main()"
    done = run_python("-c", removing, "run", folder=gone)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: the working directory has been removed. Change to one that is there.\n"
    )
