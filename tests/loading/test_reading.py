"""From bytes to items: where each begins and ends, however the bytes arrive."""

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import UsageError
from streamer.loading.reading import RAW_LIMIT, read_items
from streamer.loading.sources import Source, expand, read_bytes, stem_of
from streamer.records import Item, Position

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def items_of(data: bytes, cuts: list[int], name: str = "in.json") -> list[Item]:
    """The items of `data`, handed over in pieces cut at `cuts`."""
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces: Iterator[bytes] = (data[a:b] for a, b in pairwise(bounds) if b > a)
    return list(read_items(Source(name, name, len(data)), pieces, 0))


@given(st.lists(JSON_VALUES, max_size=6), st.lists(st.integers(0), max_size=6), st.booleans())
def test_an_array_falls_into_its_elements_however_it_arrives(values, cuts, pretty):
    data = json.dumps(values, ensure_ascii=False, indent=2 if pretty else None).encode()
    items = items_of(data, cuts)
    assert [json.loads(item.raw) for item in items] == values
    assert [item.problem for item in items] == [None] * len(values)
    for item in items:
        assert data[item.origin.offset :].startswith(item.raw)
        assert item.origin.offset + len(item.raw) <= item.origin.end


@given(
    st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), max_size=6),
    st.lists(st.integers(0), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\n\n \n"]),
)
def test_lines_keep_their_offsets_however_they_arrive(values, cuts, newline):
    data = newline.join(json.dumps(value).encode() for value in values)
    items = items_of(data, cuts)
    assert [json.loads(item.raw) for item in items] == values
    assert all(data[item.origin.offset :].startswith(item.raw) for item in items)
    assert [item.origin.position for item in items] == list(range(len(values)))


def test_reading_could_go_on_behind_any_line():
    data = b'{"a": 1}\n\n{"b": 2}\n{"c": 3}'
    for item in items_of(data, []):
        rest = items_of(data[item.origin.end :], [])
        assert [one.raw for one in rest] == [
            one.raw for one in items_of(data, []) if one.origin.row > item.origin.row
        ]


def test_a_byte_order_mark_and_blanks_before_the_first_record_are_no_record():
    for data in (b'\xef\xbb\xbf\n [{"a": 1}]', b'\xef\xbb\xbf  {"a": 1}'):
        (item,) = items_of(data, [1, 2])
        assert item.raw == b'{"a": 1}'
        assert data[item.origin.offset :].startswith(item.raw)


def test_invalid_utf8_in_one_element_does_not_end_the_array():
    items = items_of(b'[{"a": "\xff\xfe"}, {"b": "ok"}]', [])
    assert [item.raw for item in items] == [b'{"a": "\xff\xfe"}', b'{"b": "ok"}']


def test_a_number_of_any_length_is_just_a_number():
    for digits in (b"9" * 5000, b"9" * 200_000, b"1e" + b"9" * 5000, b"0." + b"3" * 70_000):
        elements = [b'{"n": ' + digits + b"}", digits, b'{"m": 1}']
        data = b"[" + b", ".join(elements) + b"]"
        for cuts in ([], list(range(0, len(data), 997))):
            assert [item.raw for item in items_of(data, cuts)] == elements


def test_an_idle_input_is_passed_on_as_nothing():
    for pieces in (
        [b'{"a": 1}\n', b"", b'{"b"', b"", b": 2}"],
        [b'[{"a": 1}', b"", b', {"b": 2}]'],
    ):
        items = list(read_items(Source("-", "-", None), iter(pieces), 0))
        assert [item.raw for item in items if item] == [b'{"a": 1}', b'{"b": 2}']
        assert [item.origin.position for item in items if item] == [0, 1]
        assert None in items


@pytest.mark.parametrize(
    ("data", "good", "rest"),
    [
        (b'[{"a": 1}, {"b": ', 1, b'{"b":'),
        (b'[{"a": 1}, {"b" 2}, {"c": 3}]', 1, b'{"b" 2}, {"c": 3}]'),
        (b'[{"a": 1}', 1, b""),
        (b'[{"a": 1}] {"b": 2}', 1, b'] {"b": 2}'),
        (b"[", 0, b""),
    ],
)
def test_what_cannot_be_split_any_more_becomes_one_item(data, good, rest):
    for cuts in ([], list(range(len(data)))):
        items = items_of(data, cuts)
        assert [item.problem is None for item in items] == [True] * good + [False]
        assert items[-1].raw == rest


def test_the_name_can_say_that_an_array_is_a_line():
    assert [item.raw for item in items_of(b"[1]\n[2]\n", [], "in.jsonl")] == [b"[1]", b"[2]"]


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data[:100]) + gzip.compress(data[100:])  # two members, as pigz makes
    return zstandard.compress(data[:100]) + zstandard.compress(data[100:])


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_of_several_members_read_as_one(tmp_path, suffix):
    data = b"".join(b'{"n": %d}\n' % n for n in range(1000))
    (tmp_path / f"in.jsonl{suffix}").write_bytes(packed(data, suffix))
    (source,) = expand([str(tmp_path)])
    seen: list[int] = []
    assert b"".join(read_bytes(source, seen.append)) == data
    assert sum(seen) == source.size
    assert stem_of(source.name) == "in"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_archive_gives_what_is_whole_and_says_so(tmp_path, suffix):
    data = b"".join(b'{"n": %d}\n' % n for n in range(100_000))
    (tmp_path / f"in.jsonl{suffix}").write_bytes(packed(data, suffix)[:-2000])
    (source,) = expand([str(tmp_path)])
    items = list(read_items(source, read_bytes(source, lambda _: None), 0))
    assert len(items) > 1
    assert [item.raw for item in items[:-1]] == data.split(b"\n")[: len(items) - 1]
    assert "truncated" in (items[-1].problem or "")


def test_a_small_archive_of_much_is_unpacked_a_little_at_a_time(tmp_path):
    for suffix, pack in ((".gz", gzip.compress), (".zst", zstandard.compress)):
        path = tmp_path / f"bomb.jsonl{suffix}"
        path.write_bytes(pack(b" " * 200_000_000))
        (source,) = expand([str(path)])
        sizes = [len(piece) for piece in read_bytes(source, lambda _: None)]
        assert sum(sizes) == 200_000_000
        assert max(sizes) < 40_000_000


def test_zeros_behind_an_archive_are_padding(tmp_path):
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n') + b"\0" * 1000)
    (source,) = expand([str(tmp_path)])
    (item,) = read_items(source, read_bytes(source, lambda _: None), 0)
    assert item.problem is None


def test_earlier_runs_in_a_directory_are_no_input(tmp_path):
    for name in ("in.jsonl", "runs/1/manifest.json", "runs/1/log.jsonl", "other/manifest.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    names = [source.name.removeprefix(f"{tmp_path}/") for source in expand([str(tmp_path)])]
    assert names == ["in.jsonl", "other/manifest.json"]


def test_an_archive_cut_in_its_header_is_one_bad_item(tmp_path):
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b"{}")[:5])
    (source,) = expand([str(tmp_path)])
    (item,) = read_items(source, read_bytes(source, lambda _: None), 0)
    assert "truncated" in (item.problem or "")


def test_a_long_array_is_read_in_flat_memory():
    element = b'{"text": "' + b"x" * 1000 + b'"}'

    def pieces() -> Iterator[bytes]:
        yield b"[" + element
        for _ in range(100_000):
            yield b"," + element
        yield b"]"

    tracemalloc.start()
    count = sum(1 for _ in read_items(Source("in.json", "", None), pieces(), 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_001
    assert peak < 2**20


def test_of_a_line_beyond_all_bounds_the_beginning_is_kept_and_the_size_told():
    def pieces() -> Iterator[bytes]:
        for _ in range(80):
            yield b"x" * 2**20
        yield b'\n{"a": 1}\n'

    long, short = read_items(Source("in.jsonl", "", None), pieces(), 0)
    assert (len(long.raw), long.size) == (RAW_LIMIT, 80 * 2**20 + 1)
    assert short.raw == b'{"a": 1}'


def test_inputs_are_found_in_directories_globs_and_urls_each_once_and_in_order(tmp_path):
    for name in ("b.json", "a.jsonl", "sub/c.ndjson.gz", ".hidden.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    here = str(tmp_path)
    names = [source.name.removeprefix(here + "/") for source in expand([here, f"{here}/*.json"])]
    assert names == ["a.jsonl", "b.json", "sub/c.ndjson.gz"]
    assert [stem_of(source.name) for source in expand([f"{here}/sub/*"])] == ["c"]
    assert [source.path for source in expand([f"file://{here}/b.json"])] == [f"{here}/b.json"]


def test_a_url_of_another_file_system_is_read():
    import fsspec

    with fsspec.open("memory://bucket/in.jsonl", "wb") as file:
        file.write(b'{"a": 1}\n')
    assert len(expand(["memory://bucket/in.jsonl", "file:///dev/null"])) == 2
    (source,) = expand(["memory://bucket/in.jsonl"])
    assert b"".join(read_bytes(source, lambda _: None)) == b'{"a": 1}\n'


def test_a_path_to_nothing_is_told_by_name(tmp_path):
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "*.json"):
        with pytest.raises(UsageError, match=f"nothing to read at {path}".replace("*", r"\*")):
            expand([str(path)])
    with pytest.raises(UsageError, match="cannot read nosuch://x"):
        expand(["nosuch://x"])


def resumed(data: bytes, items: list[Item], after: int, name: str) -> list[Item]:
    """The items of `data` from behind the first `after` of `items`, read on from there."""
    last = items[after - 1].origin
    place = Position.behind(last)
    if place.ended:
        return []
    pieces = iter([data[place.offset :]] if data[place.offset :] else [])
    return list(read_items(Source(name, name, len(data)), pieces, after, place))


@given(st.lists(JSON_VALUES, min_size=1, max_size=6), st.data(), st.booleans())
def test_reading_goes_on_behind_any_element_as_if_it_had_not_stopped(values, data, pretty):
    text = json.dumps(values, ensure_ascii=False, indent=2 if pretty else None).encode()
    end = data.draw(st.integers(1, len(text) + 3), label="end")
    text = (text + b" \nx")[:end]  # also cut off, and with something behind it
    items = items_of(text, [], "in.json")
    for after in range(1, len(items) + 1):
        rest = resumed(text, items, after, "in.json")
        assert len(rest) == len(items) - after
        for one, other in zip(rest, items[after:], strict=True):
            if other.problem is None:
                assert one == other
            else:  # that what cannot be split begins with the array's ] is no matter
                assert one.problem is not None
                assert (one.origin.row, one.origin.end) == (other.origin.row, other.origin.end)


@given(st.lists(st.sampled_from(["{}", "rubbish", '{"a": 1}', "[1, 2]", ""]), min_size=1))
def test_reading_goes_on_behind_any_line(lines):
    text = "\n".join(lines).encode()
    items = items_of(text, [], "in.jsonl")
    for after in range(1, len(items) + 1):
        assert resumed(text, items, after, "in.jsonl") == items[after:]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("begin", [1, 70_000, 199_999, 200_000])
def test_bytes_are_read_from_anywhere(pack, begin, tmp_path):
    data = b"".join(b"%06d\n" % number for number in range(200_000 // 7 + 1))[:200_000]
    path = tmp_path / "in.jsonl"
    path.write_bytes(pack(data))
    (source,) = expand([str(path)])
    seen: list[int] = []
    assert b"".join(read_bytes(source, seen.append, begin)) == data[begin:]
    assert sum(seen) == path.stat().st_size
