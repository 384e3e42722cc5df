"""What can be done to the parts and tables of a run directory."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from support.made_runs import MadeRun, write_part


def replace_row(table: str, number: int, changes: dict[int, int]) -> Callable[[MadeRun], None]:
    def change(rows: pa.Table) -> pa.Table:
        numbers = [changes.get(row, row) for row in rows["row"].to_pylist()]
        column = pa.array(numbers, pa.int64())
        return rows.set_column(0, rows.schema.field(0), column)

    return lambda run: run.rewrite(table, number, change)


def lose_row(run: MadeRun) -> None:
    run.rewrite("metrics", 1, lambda rows: rows.slice(1))
    for table in ("metrics", "rejected"):
        run.footer(table, 1, tables={"metrics": 2, "rejected": 1})


def repeat_row(run: MadeRun) -> None:
    run.rewrite("metrics", 0, lambda rows: pa.concat_tables([rows, rows.slice(1)]))


def double_column(rows: pa.Table) -> pa.Table:
    return rows.set_column(5, "l1_x", pc.cast(rows["l1_x"], pa.float64()))


def rename_in_all(run: MadeRun) -> None:
    for number in range(3):
        run.rewrite("metrics", number, lambda rows: rows.rename_columns({"l1_x": "l1_y"}))


def rewrite_footer(said: bytes) -> Callable[[MadeRun], None]:
    def damage(run: MadeRun) -> None:
        part = run.part("metrics", 1)
        write_part(part, pq.read_table(part), said)

    return damage


def foreign(run: MadeRun) -> None:
    part = run.part("metrics", 1)
    pq.write_table(pq.read_table(part), part)


def cut(run: MadeRun) -> None:
    part = run.part("metrics", 1)
    part.write_bytes(part.read_bytes()[:-100])


def copy(table: str, number: int, name: str) -> Callable[[MadeRun], None]:
    return lambda run: (run.path / table / name).write_bytes(run.part(table, number).read_bytes())


def wrong_source(run: MadeRun) -> None:
    other = pa.array(["other.jsonl"] * 3)
    run.rewrite("metrics", 2, lambda rows: rows.set_column(2, rows.schema.field(2), other))


def nameless(run: MadeRun) -> None:
    numbers = pa.array([None], pa.int64())
    run.rewrite("rejected", 1, lambda rows: rows.set_column(0, "row", numbers))
