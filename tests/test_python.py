"""The Python face."""

import asyncio

import pytest

import streamer
from streamer import RunConfig, UsageError


def test_a_run_is_a_call_again_and_again_and_also_where_a_loop_runs(tmp_path, capsys):
    settings = {"limit": 3, "progress": "none"}
    first = streamer.run(RunConfig(out=tmp_path / "1", **settings))

    async def notebook():
        return streamer.run(RunConfig(out=tmp_path / "2", **settings))

    second = asyncio.run(notebook())
    assert first.table("metrics") == second.table("metrics")
    assert first.manifest["status"] == "finished"
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="holds a run already"):
        streamer.run(RunConfig(out=tmp_path / "1", **settings))


def test_the_public_names_are_there():
    for name in streamer.__all__:
        assert getattr(streamer, name) is not None
