"""Flags are the keys of RunConfig: all of them, with its help; those not given are absent."""

from pathlib import Path
from typing import Any

import pytest

from streamer.commands.cli import app
from streamer.commands.flags import config_from
from streamer.config import RunConfig, load_config


def flags_of(command: str) -> dict[str, Any]:
    """Each flag of `command` by its long name."""
    return {
        name: argument
        for argument in app[command].assemble_argument_collection()
        for name in argument.names
    }


@pytest.mark.parametrize("command", ["run", "tune", "verify"])
def test_every_setting_is_a_flag_with_its_line_in_the_configuration_as_help(command):
    flags = flags_of(command)
    for key, field in RunConfig.model_fields.items():
        if key != "paths":
            help_text = flags["--" + key.replace("_", "-")].parameter.help
            assert help_text.startswith(field.description.replace("\n", " ")), key


def test_only_what_is_not_off_anyhow_can_be_switched_off():
    assert {name for name in flags_of("run") if name.startswith("--no-")} == {
        "--no-prepend-bos",
        "--no-overlap",
    }


def parsed(*arguments: str) -> RunConfig:
    """What `streamer run` would do."""
    _, bound, _ = app.parse_args(["run", *arguments], exit_on_error=False, print_error=False)
    given = bound.arguments
    return config_from(given.get("config"), given.get("paths", ()), given.get("flags"))


def test_a_flag_that_is_not_given_leaves_the_file_alone(tmp_path: Path):
    file = tmp_path / "my.toml"
    file.write_text('seed = 4\noverlap = false\nlayers = [1, 3]\nfield = { text = "a" }\n')
    assert parsed("--config", str(file)) == load_config(file)
    changed = parsed("--config", str(file), "--seed", "-5", "--overlap", "--field", "id=n")
    assert (changed.seed, changed.overlap) == (-5, True)
    assert changed.field == {"text": "a", "id": "n"}
    assert changed.layers == (1, 3)


def test_values_have_the_forms_that_they_have_on_a_command_line():
    config = parsed(
        "a", "-", "--layers", "5,12,20", "--carry", "n=int64", "--carry", "s=string",
        "--noise-std", "0.2", "--no-overlap", "--fp16", "--out", "RUN", "--separator", "",
    )  # fmt: skip
    assert config.paths == ("a", "-")
    assert config.layers == (5, 12, 20)
    assert config.carry == {"domain": "string", "n": "int64", "s": "string"}
    assert (config.noise_std, config.overlap, config.fp16) == (0.2, False, True)
    assert config.out == Path("RUN")
    assert config.separator == ""
    assert parsed("--separator", "\n").separator == "\n"
    assert parsed("--separator=-> ").separator == "-> "
