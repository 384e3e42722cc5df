"""The manifest of a run: what other versions wrote is read, what is damaged is told."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from streamer.config import RunConfig
from streamer.errors import UsageError
from streamer.manifest import FORMAT, Manifest
from streamer.monitoring.status import read_status
from streamer.records import Counts, InputRange
from streamer.results.run import manifest_of, open_run
from streamer.running.resume import as_begun, refuse_changes

FIRST: dict[str, Any] = {
    "status": "stopped",
    "started": "2026-11-25T02:11:33.867+00:00",
    "finished": "2026-11-25T02:12:09.470+00:00",
    "earlier_sessions": [],
    "working_directory": "/data",
    "versions": {"streamer": "0.1.0", "torch": "2.13.0+cpu"},
    "config": {"paths": ["in.jsonl"], "layers": [1, 3, 5], "seed": 0, "progress": "none"},
    "kind": "text",
    "model": {"name": "embedded", "files": "f3b5", "revision": None, "dtype": "float32"},
    "saes": [{"layer": 1, "location": "saes/layer_1", "files": "df89", "revision": None}],
    "inputs": [{"name": "in.jsonl", "bytes": 9, "modified": "1.5", "head": "3d9e", "tail": "3d9e"}],
    "columns": ["l1_text_gini"],
    "counts": {"records": 6, "rows": 3, "rejected": 3},
}
"""As the first version wrote it, without `format`."""


def write(folder: Path, **entries: Any) -> Path:
    """A run directory in `folder` with the first version's manifest and `entries`."""
    (folder / "manifest.json").write_text(json.dumps(FIRST | entries))
    return folder


def parsed(**entries: Any) -> Manifest:
    return Manifest.parse(json.dumps(FIRST | entries).encode())


class Unlisted:
    """A folder of somebody else's, which may be entered and not listed."""

    location = "theirs"

    def read(self, name: str) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)

    def list(self, folder: str = "") -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", folder)

    folders = list


def test_a_folder_that_may_not_be_listed_is_no_run():
    for look in (manifest_of, read_status):
        with pytest.raises(UsageError, match="no run in theirs: that directory has no manifest"):
            look(Unlisted())


def test_a_manifest_of_the_first_version_has_format_1_and_defaults_for_what_it_lacks():
    manifest = parsed()
    assert manifest.format == 1
    assert manifest.counts == Counts(records=6, rows=3, rejected=3)
    assert manifest.max_tokens is None
    assert manifest.config.follow is False


def test_it_says_when_written_again_what_it_said_and_its_format():
    assert json.loads(parsed().content()) == FIRST | {
        "format": FORMAT,
        "counts": {**dict.fromkeys(Counts.__slots__, 0), **FIRST["counts"]},
    }


def test_keys_of_a_later_version_are_kept(tmp_path):
    model = FIRST["model"] | {"quantized": "int8"}
    manifest = open_run(write(tmp_path, shards=4, model=model)).manifest
    assert manifest["shards"] == 4
    assert manifest["model"]["quantized"] == "int8"


def test_a_later_format_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"it has format 2, and this version reads 1: use"):
        open_run(write(tmp_path, format=2))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"inputs": [{"bytes": 4}]}, r"inputs\.0\.name: Field required"),
        ({"counts": {"rows": "many"}}, r"counts\.rows: .*found 'many'"),
        ({"config": {"limit": "few"}}, r"config\.limit: .*found 'few'"),
        ({"format": "new"}, "format new"),
    ],
)
def test_what_is_damaged_is_told_by_its_place(tmp_path, entries, message):
    with pytest.raises(UsageError, match=message):
        open_run(write(tmp_path, **entries))


def test_what_is_updated_is_checked_as_what_is_read():
    manifest = parsed().updated(status="finished", counts=Counts(records=7))
    assert manifest.is_closed
    assert manifest.entries()["counts"]["records"] == 7
    with pytest.raises(ValueError, match="inputs"):
        manifest.updated(inputs=[{}])


def refuse(earlier: Manifest, **settings: Any) -> None:
    config = as_begun(RunConfig(**settings), earlier)
    refuse_changes(Path("RUN"), earlier, config, FIRST["inputs"], InputRange())


def test_a_setting_that_an_old_run_lacks_counts_as_its_default():
    refuse(parsed())
    refuse(parsed(), noise_std=RunConfig().noise_std)
    with pytest.raises(UsageError, match=r"noise_std was 0\.1 and is 0\.2"):
        refuse(parsed(), noise_std=0.2)


def test_a_run_that_was_begun_with_one_draw_of_noise_goes_on_with_one_unless_told_otherwise():
    assert RunConfig().noise_draws == 8
    assert as_begun(RunConfig(), parsed()).noise_draws == 1
    refuse(parsed(), noise_draws=1)
    with pytest.raises(UsageError, match="noise_draws was 1 and is 8"):
        refuse(parsed(), noise_draws=8)
    said = parsed(config=FIRST["config"] | {"noise_draws": 4})
    assert as_begun(RunConfig(), said).noise_draws == 8
    with pytest.raises(UsageError, match="noise_draws was 4 and is 8"):
        refuse(said)


def test_a_setting_that_only_a_later_version_knows_is_refused():
    later = parsed(config=FIRST["config"] | {"quantize": "int8"})
    with pytest.raises(UsageError, match="quantize was 'int8', which this version does not know"):
        refuse(later)


def test_counts_add_up():
    assert Counts(rows=1, tokens=5) + Counts(rows=2) == Counts(rows=3, tokens=5)
