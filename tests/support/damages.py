"""What can happen to a run directory: each does one damage, to be named by one line of a report."""

from collections.abc import Callable

from support.damaging import (
    copy,
    cut,
    double_column,
    foreign,
    lose_row,
    nameless,
    rename_in_all,
    repeat_row,
    replace_row,
    rewrite_footer,
    wrong_source,
)
from support.made_runs import MadeRun, flip_in_page

DAMAGES: dict[str, tuple[Callable[[MadeRun], object], str, str]] = {
    "a byte of a page": (
        flip_in_page,
        "files",
        r"metrics/part-00001.parquet: row group 1 cannot be read: .*CRC",
    ),
    "a cut file": (cut, "files", r"metrics/part-00001.parquet cannot be opened"),
    "an empty file": (
        lambda run: run.part("rejected", 0).write_bytes(b""),
        "files",
        r"rejected/part-00000.parquet cannot be opened",
    ),
    "a row without number": (nameless, "files", r"rejected/part-00001.parquet: has rows without"),
    "a part lost in the middle": (
        lambda run: run.drop("metrics", 1),
        "footers",
        r"metrics/part-00001.parquet is missing",
    ),
    "the first part lost": (
        lambda run: run.drop("metrics", 0),
        "footers",
        r"metrics/part-00000.parquet is missing",
    ),
    "the last part lost": (
        lambda run: run.drop("metrics", 2),
        "counts",
        r"manifest.json counts 8 rows, the parts hold 5",
    ),
    "a part twice": (
        copy("metrics", 2, "part-00003.parquet"),
        "footers",
        r"metrics/part-00003.parquet begins with row 8, but the parts before it end with row 11",
    ),
    "a copy beside": (
        copy("metrics", 1, "part-00001 (copy).parquet"),
        "footers",
        r"metrics/part-00001 \(copy\).parquet is no part of the run",
    ),
    "two rows swapped": (
        replace_row("metrics", 1, {5: 7, 7: 5}),
        "rows",
        r"metrics/part-00001.parquet has row 5 after row 7: not in order",
    ),
    "two rejected rows swapped": (
        replace_row("rejected", 0, {2: 3, 3: 2}),
        "rows",
        r"rejected/part-00000.parquet has row 2 after row 3: not in order",
    ),
    "a number twice": (
        replace_row("metrics", 1, {5: 4}),
        "rows",
        r"metrics/part-00001.parquet has row 4 twice",
    ),
    "a row of elsewhere": (
        replace_row("metrics", 1, {7: 99}),
        "rows",
        r"metrics/part-00001.parquet has row 99, though it covers 4 to 7",
    ),
    "a row in both tables": (
        replace_row("rejected", 1, {6: 5}),
        "rows",
        r"row 5 is in both metrics/part-00001.parquet and rejected/part-00001.parquet",
    ),
    "a row lost": (lose_row, "rows", r"row 4 is missing"),
    "rows more than the footer says": (
        repeat_row,
        "footers",
        r"metrics/part-00000.parquet has 3 rows; the footer of metrics/part-00000.parquet says 2",
    ),
    "end_row of a footer": (
        lambda run: run.footer("metrics", 0, end_row=5),
        "footers",
        r"rejected/part-00000.parquet does not belong to metrics/part-00000.parquet",
    ),
    "end_row of a footer alone": (
        lambda run: run.footer("metrics", 2, end_row=12),
        "rows",
        r"row 11 is missing: it is not in metrics/part-00002.parquet",
    ),
    "first_row of a footer": (
        lambda run: run.footer("metrics", 2, first_row=7),
        "footers",
        r"metrics/part-00002.parquet begins with row 7, but the parts before it end with row 8",
    ),
    "an impossible footer": (
        lambda run: run.footer("metrics", 2, first_row=10**18, end_row=5),
        "footers",
        r"metrics/part-00002.parquet: its footer covers rows",
    ),
    "an endless footer": (
        lambda run: run.footer("metrics", 2, end_row=10**18),
        "rows",
        r"row 11 is missing",
    ),
    "tables of a footer": (
        lambda run: run.footer("metrics", 2, tables={"metrics": 3, "rejected": 1}),
        "footers",
        r"rejected/part-00002.parquet is missing: metrics/part-00002.parquet says that it has 1 ",
    ),
    "counts of a footer": (
        lambda run: run.footer("metrics", 2, counts={"rows": 7, "rejected": 3}),
        "counts",
        r"metrics/part-00002.parquet: its footer counts 7 rows up to here, the parts hold 8",
    ),
    "words in a footer": (
        lambda run: run.footer("metrics", 1, end_row="8"),
        "footers",
        r"metrics/part-00001.parquet: its footer has no proper 'end_row'",
    ),
    "words among the counts of a footer": (
        lambda run: run.drop("metrics", 0) or run.footer("metrics", 1, counts={"rows": "x"}),
        "footers",
        r"metrics/part-00000.parquet is missing",
    ),
    "a footer without tables": (
        rewrite_footer(b'{"first_row": 4, "end_row": 8}'),
        "footers",
        r"metrics/part-00001.parquet: its footer has no proper 'tables'",
    ),
    "a footer that is no object": (
        rewrite_footer(b"[]"),
        "footers",
        r"metrics/part-00001.parquet: its footer has no proper 'first_row'",
    ),
    "a footer that is no JSON": (
        rewrite_footer(b"{'"),
        "footers",
        r"metrics/part-00001.parquet: its footer is not readable",
    ),
    "a part that is not ours": (
        foreign,
        "footers",
        r"metrics/part-00001.parquet: has no 'streamer' in its footer: streamer did not write it",
    ),
    "a rejected part lost": (
        lambda run: run.drop("rejected", 1),
        "footers",
        r"rejected/part-00001.parquet is missing: metrics/part-00001.parquet says that it has 1 ",
    ),
    "a rejected part of another commit": (
        lambda run: run.part("rejected", 0).replace(run.part("rejected", 1)),
        "footers",
        r"rejected/part-00000.parquet is missing",
    ),
    "a rejected part too many": (
        copy("rejected", 1, "part-00002.parquet"),
        "footers",
        r"rejected/part-00002.parquet has 1 rows; the footer of metrics/part-00002.parquet says 0",
    ),
    "a column of another type": (
        lambda run: run.rewrite("metrics", 1, double_column),
        "schemas",
        r"metrics/part-00001.parquet: its columns differ from those of metrics/part-00000.parquet: "
        r"column 5 is .*double, not .*float",
    ),
    "a column lost": (
        lambda run: run.rewrite("metrics", 2, lambda rows: rows.drop_columns(["l3_x"])),
        "schemas",
        r"metrics/part-00002.parquet: .*column 6 is nothing, not .*l3_x",
    ),
    "columns that nobody measured": (
        rename_in_all,
        "schemas",
        r"metrics/part-00000.parquet: its last columns are not those that manifest.json names",
    ),
    "no row numbers": (
        lambda run: run.rewrite("metrics", 0, lambda rows: rows.drop_columns(["row"])),
        "schemas",
        r"metrics/part-00000.parquet: its first columns are not row, id and source",
    ),
    "a column in rejected": (
        lambda run: run.rewrite("rejected", 0, lambda rows: rows.append_column("x", rows["row"])),
        "schemas",
        r"rejected/part-00000.parquet: its columns are not those of rejected: column 6",
    ),
    "counts of the manifest": (
        lambda run: run.manifest(counts={"records": 11, "rows": 9, "rejected": 3}),
        "counts",
        r"manifest.json counts 9 rows, the parts hold 8",
    ),
    "no counts in the manifest": (
        lambda run: run.manifest(counts={}),
        "counts",
        r"manifest.json counts 0 rows, the parts hold 8",
    ),
    "a manifest that is no JSON": (
        lambda run: (run.path / "manifest.json").write_text("{"),
        "manifest",
        r"manifest.json cannot be read",
    ),
    "another manifest": (
        lambda run: (run.path / "manifest.json").write_text("[1]"),
        "manifest",
        r"manifest.json cannot be read: it is not the manifest of a run",
    ),
    "inputs of the manifest": (
        lambda run: run.manifest(inputs=[{"bytes": 4}]),
        "manifest",
        r"manifest.json cannot be read: inputs.0.name: ",
    ),
    "no manifest": (
        lambda run: (run.path / "manifest.json").unlink(),
        "manifest",
        r"manifest.json cannot be read: .*No such file",
    ),
    "a line less in the input": (
        lambda run: run.input.write_text(run.input.read_text().partition("\n")[2]),
        "inputs",
        r"in.jsonl: its size was \d+ and is \d+; .*it has 10 records, the run has 11 of it",
    ),
    "a line more in the input": (
        lambda run: run.input.write_text(run.input.read_text() + "{}\n"),
        "inputs",
        r"it has 12 records, the run has 11 of it",
    ),
    "two lines made one": (
        lambda run: run.input.write_text(run.input.read_text().replace("\n", " ", 1)),
        "inputs",
        r"in.jsonl: its first 64 KiB are others; .*it has 10 records, the run has 11 of it",
    ),
    "a source that was no input": (
        wrong_source,
        "inputs",
        r"in.jsonl: it has 11 records, the run has 8 of it",
    ),
    "rejected rows of a commit that is not there": (
        copy("rejected", 1, "part-00003.parquet"),
        "leftovers",
        r"rejected/part-00003.parquet is beyond the last commit",
    ),
}
