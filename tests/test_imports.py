"""The rule of imports: each room knows itself and the floors below, never a neighbour."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamer
from streamer.tables import TABLES

PACKAGE = Path(streamer.__file__).parent
FLOORS: list[set[str]] = [
    {"__init__", "__main__"},
    {"commands"},
    {"running"},
    {"computing", "results"},
    {"loading", "planning", "tables", "writing", "monitoring"},
    {"manifest", "batches"},
    {"records"},
    {"config"},
    {"errors", "concurrency", "device", "embedded", "_version"},
]
"""The rooms, highest first. Stages stand side by side."""
GROUND = {"errors", "_version"}
"""What any room may know, those beside it too."""
LINES, LINES_OF_A_FUNCTION = 300, 60
"""Most that a file and a function may have."""
FACE = {"__version__"}
"""Names that rooms take from the package itself."""


def room_of(file: Path) -> str:
    """The folder below the package that `file` lies in, or its own name if it lies loose."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """The rooms of the package that `file` imports from, at its top or within a function."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the room"
            head, *parts = (node.module or "").split(".")
            if head == "streamer":
                yield from parts[:1] or {alias.name for alias in node.names} - FACE
        elif isinstance(node, ast.Import):
            for alias in node.names:
                head, *parts = alias.name.split(".")
                if head == "streamer":
                    yield parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted({room_of(file) for file in FILES})


def test_every_room_and_loose_file_has_its_floor():
    assert set(ROOMS) == set.union(*FLOORS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_itself_and_the_floors_below(room):
    floor = next(number for number, rooms in enumerate(FLOORS) if room in rooms)
    allowed = {room} | GROUND | set().union(*FLOORS[floor + 1 :])
    found = {
        (str(file.relative_to(PACKAGE)), other)
        for file in FILES
        if room_of(file) == room
        for other in imported(file)
        if other not in allowed
    }
    assert not found


@pytest.mark.parametrize(
    ("source", "room"),
    [
        ("from streamer.loading.loader import Loader", "loading"),
        ("import streamer.writing.commit", "writing"),
        ("from streamer import embedded", "embedded"),
        ("def f():\n    from streamer.running import run", "running"),
    ],
)
def test_every_form_of_import_is_seen(tmp_path, source, room):
    (tmp_path / "some.py").write_text(source)
    assert list(imported(tmp_path / "some.py")) == [room]


@pytest.mark.parametrize("room", ["writing", "results/check"])
def test_what_is_behind_the_tables_knows_none_by_name(room):
    names = "|".join(table.name for table in TABLES)
    found = [
        f"{file.relative_to(PACKAGE)}: {node.value!r}"
        for file in (PACKAGE / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(rf"({names})(/.*)?", node.value)
    ]
    assert not found


def test_no_file_and_no_function_is_too_long_to_be_read_at_once():
    project = PACKAGE.parent.parent
    files = [
        file
        for folder in ("src", "tests", "bench", "soak")
        for file in (project / folder).rglob("*.py")
    ]
    assert len(files) > 300
    found = []
    for file in files:
        text = file.read_text("utf-8")
        lines = text.count("\n")
        found += [f"{file}: {lines} lines"] if lines > LINES else []
        found += [
            f"{file}: {node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if (node.end_lineno or 0) - node.lineno >= LINES_OF_A_FUNCTION
        ]
    assert not found
