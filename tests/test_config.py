"""One name for one thing: the same keys in Python, in TOML and as flags."""

from pathlib import Path

import pytest

from streamer.config import RunConfig, load_config
from streamer.errors import UsageError

CONFIGS = Path(__file__).parents[1] / "configs"


def test_the_embedded_configuration_is_the_default_spelled_out():
    assert load_config(CONFIGS / "embedded.toml") == RunConfig()
    text = (CONFIGS / "embedded.toml").read_text()
    for field in RunConfig.model_fields:
        assert f"\n{field} = " in text or f"\n# {field} = " in text or f"\n[{field}]" in text


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_configuration_loads_and_explains_every_line(path):
    load_config(path)
    for line in path.read_text().splitlines():
        assert not line or "#" in line or line == "hook", line


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('batch_size = 8\nwindow = 16\ncarry = { n = "int64" }\n')
    config = load_config(file, {"batch_size": 4, "carry": {"m": "bool"}})
    assert (config.batch_size, config.window, config.seed) == (4, 16, RunConfig().seed)
    assert config.carry == {"domain": "string", "n": "int64", "m": "bool"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, "layers"),
        ({"layers": [1, 1]}, "increasing"),
        ({"layers": [-1]}, "layers.0"),
        ({"sae": "saes/x"}, r"needs \{layer\} in it"),
        ({"model": "gpt2"}, "give sae and layers"),
        ({"field": {"text": "a", "fact": "b"}}, "roles of both kinds"),
        ({"model": "gpt2", "sae": "x/{layer}"}, "needs layers"),
        ({"carry": {"row": "int64"}}, "'row' is a column of every run"),
        ({"noise_std": 0}, "greater than 0"),
        ({"noise_draws": 0}, "noise_draws"),
        ({"noise_scale": "relatve"}, "'absolute' or 'relative'"),
        ({"separator": "a\0"}, "separator: .* has a NUL"),
        ({"separator": "\udcff"}, "not valid Unicode"),
        ({"carry": {"n": "int"}}, "carry.n"),
        ({"dtype": "float8"}, "dtype"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings, message):
    with pytest.raises(UsageError, match=message):
        load_config(None, settings)


def test_a_map_on_the_command_line_does_not_hide_what_is_wrong_in_the_file(tmp_path):
    file = tmp_path / "streamer.toml"
    file.write_text('carry = "domain"\n')
    with pytest.raises(UsageError, match="carry"):
        load_config(file)
    assert load_config(file, {"carry": {"n": "int64"}}).carry == {"domain": "string", "n": "int64"}


def test_every_setting_explains_itself():
    for name, field in RunConfig.model_fields.items():
        assert field.description, name
