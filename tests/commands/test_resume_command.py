"""`streamer resume` as a user runs it: which settings it takes from a run directory, which not."""

import json

import pytest

from streamer.commands import cli
from streamer.commands.resume import settings_of
from streamer.manifest import Manifest
from support.made_runs import MadeRun, make_killed_run


@pytest.fixture
def run(tmp_path) -> MadeRun:
    run = make_killed_run(tmp_path)
    config = {"paths": [str(run.input)], "trust_remote_code": True, "quantize": "int8"}
    run.manifest(kind="text", config=config, working_directory=str(tmp_path))
    return run


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return int(exit_.value.code or 0)


def test_a_run_directory_cannot_allow_a_models_own_code(run, capsys):
    before = run.files()
    assert command("resume", str(run.path)) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "A run directory cannot allow that" in told
    assert f"streamer resume {run.path} --trust-remote-code" in told
    assert run.files() == before
    assert command("resume", str(run.path), "--trust-remote-code") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "trust" not in told
    assert "quantize was 'int8', which this version does not know" in told


def test_what_is_trusted_now_was_not_trusted_before_is_another_run(run, capsys):
    run.manifest(config={"paths": [str(run.input)]})
    assert command("resume", str(run.path), "--trust-remote-code") == 2
    assert "trust_remote_code was False and is True" in " ".join(capsys.readouterr().err.split())


def test_a_run_goes_on_with_the_commits_it_began_with():
    said = {"status": "stopped", "config": {"model": "me/llama", "sae_revision": "main"}}
    hub = {"model": {"revision": "a1"}, "saes": [{"layer": 1, "revision": "b2"}]}
    settings = settings_of(Manifest.parse(json.dumps(said | hub).encode()))
    assert (settings["revision"], settings["sae_revision"]) == ("a1", "b2")
    local = {"model": {"revision": None}, "saes": [{"layer": 1, "revision": None}]}
    assert "revision" not in settings_of(Manifest.parse(json.dumps(said | local).encode()))
