"""Every input record ends in `metrics` or in `rejected`, exactly once, in order."""

import gzip
import json
from pathlib import Path

import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.runs import run_with

GOOD = '{"prompt": "The sky is", "fact": "blue", "hallucination": "green"}'
BAD_ELEMENTS = [
    b"[]",
    b"17",
    b'"text"',
    b"null",
    b"{}",
    b'{"prompt": "The sky is", "fact": null, "hallucination": "green"}',
    b'{"prompt": "The sky is", "fact": ["blue"], "hallucination": "green"}',
    b'{"prompt": "", "fact": "blue", "hallucination": "green"}',
    b'{"prompt": "\xff", "fact": "blue", "hallucination": "green"}',
    b'{"prompt": "\\udc00", "fact": "blue", "hallucination": "green"}',
    b'{"prompt": "\\u0000", "fact": "blue", "hallucination": "green"}',
    b'{"prompt": "The sky is", "n": ' + b"9" * 5000 + b"}",
    json.dumps({"prompt": "word " * 600, "fact": "blue", "hallucination": "green"}).encode(),
]
BAD_LINES = [*BAD_ELEMENTS, b"{", b"rubbish", b'{"prompt": "a"', b"\xff\xfe", b'{"prompt": "\0"}']
TAILS = [b"", b', {"prompt": ', b", {]", b", nul"]


@st.composite
def files(draw) -> tuple[str, bytes, list[bytes | None]]:
    """A file's suffix, its bytes, and for each record in it None if good, else the raw text."""
    array = draw(st.booleans())
    kinds = st.sampled_from([None, *(BAD_ELEMENTS if array else BAD_LINES)])
    records = draw(st.lists(kinds, max_size=12))
    raws = [GOOD.encode() if record is None else record for record in records]
    expected = list(records)
    if array:
        tail = draw(st.sampled_from(TAILS)) if records else b""
        data = b"[" + b",\n".join(raws) + (tail or b"]")
        expected += [tail.strip(b", ")] if tail else []
    else:
        data = b"\n".join(raws)
    suffix = draw(st.sampled_from(["", ".gz", ".zst"]))
    packed = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix](data)
    return (".json" if array else ".jsonl") + suffix, packed, expected


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(files(), min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 20))
def test_rows_and_rejections_are_the_records_each_once_in_order(
    tmp_path_factory, contents, batch_size, window
):
    folder: Path = tmp_path_factory.mktemp("run")
    for number, (suffix, data, _) in enumerate(contents):
        (folder / f"{number}{suffix}").write_bytes(data)
    expected = [record for _, _, records in contents for record in records]
    run, summary = run_with(
        None,
        paths=[str(folder)],
        out=folder / "RUN",
        kind="contrast",
        batch_size=batch_size,
        window=window,
        row_group_rows=5,
        part_rows=7,
    )
    metrics, rejected = run.table("metrics"), run.table("rejected")
    good = [row for row, record in enumerate(expected) if record is None]
    bad = [row for row, record in enumerate(expected) if record is not None]
    assert metrics["row"].to_pylist() == good
    assert rejected["row"].to_pylist() == bad
    assert rejected["raw"].to_pylist() == [expected[row] for row in bad]
    assert all(rejected["reason"].to_pylist())
    assert run.manifest["counts"]["records"] == len(expected)
    written = summary.counters.written
    assert (written.rows, written.rejected) == (len(good), len(bad))


def test_nothing_but_rubbish_is_a_run_with_nothing_but_rejections(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"rubbish\n" * 3)
    run, _ = run_with(None, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    assert run.table("metrics").num_rows == 0
    assert run.table("rejected")["offset"].to_pylist() == [0, 8, 16]
    assert run.manifest["status"] == "finished"


def test_a_line_of_50_mb_is_rejected_whole_and_the_run_goes_on(tmp_path):
    huge = json.dumps({"prompt": "x" * 50_000_000, "fact": "b", "hallucination": "c"}).encode()
    (tmp_path / "in.jsonl").write_bytes(b"\n".join([GOOD.encode(), huge, GOOD.encode()]))
    run, _ = run_with(None, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN")
    assert run.table("metrics")["row"].to_pylist() == [0, 2]
    (rejection,) = run.table("rejected").to_pylist()
    assert rejection["raw"] == huge
    assert "max_record_bytes" in rejection["reason"]


def test_the_limit_counts_input_records(tmp_path):
    (tmp_path / "in.jsonl").write_text("\n".join([GOOD, "rubbish", GOOD, GOOD]))
    run, _ = run_with(None, paths=[str(tmp_path / "in.jsonl")], out=tmp_path / "RUN", limit=3)
    assert run.table("metrics")["row"].to_pylist() == [0, 2]
    assert run.table("rejected")["row"].to_pylist() == [1]
