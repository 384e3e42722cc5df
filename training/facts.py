"""Fact tables and records → sentences."""

import json
import tomllib
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from streamer.embedded import RECORDS

TABLES = Path(__file__).parent / "facts"

LEADS = ("{}.", "Remember: {}.", "It is a fact: {}.", "In short: {}.", "Once more: {}.")
"""Frames around the exact wording of a record."""

ARITHMETIC_LIMIT = 20
"""Sums, differences and products use the whole numbers up to this one."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One true sentence, the table it comes from, and whether training must not see it."""

    text: str
    topic: str
    heldout: bool


def chosen(text: str, percent: int) -> bool:
    """True for about `percent` of all texts, the same ones on every machine."""
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big") % 100 < percent


def records() -> list[dict[str, Any]]:
    """The 200 contrast records, by file and position."""
    files = sorted(RECORDS.glob("*.json"))
    return [record for file in files for record in json.loads(file.read_text("utf-8"))]


def record_sentences() -> list[Sentence]:
    """Each record's fact in its exact wording, framed in several ways, and in other words."""
    rephrased: dict[str, str] = json.loads((TABLES / "rephrased.json").read_text("utf-8"))
    sentences = []
    for record in records():
        exact = f"{record['prompt']} {record['fact']}"
        topic = f"records, {record['domain']}"
        sentences += [Sentence(lead.format(exact), topic, False) for lead in LEADS]
        sentences.append(Sentence(rephrased[record["id"]], topic, False))
    return sentences


def table_sentences() -> list[Sentence]:
    """Every row of every table in every wording, and arithmetic; some of them held out.

    A wording of a row is held out only where the table has three or more, so that training has
    seen the fact itself; no record's exact wording is ever held out.
    """
    exact = {f"{record['prompt']} {record['fact']}." for record in records()}
    unique: dict[str, Sentence] = {}
    for file in sorted(TABLES.glob("*.toml")):
        tables = tomllib.loads(file.read_text("utf-8"))
        for relation in tables.get("relation", []):
            for values in _rows(relation["rows"]):
                _render(unique, relation, values, 5)
        for ranking in tables.get("ranking", []):
            for a, b in combinations(ranking["order"], 2):
                _render(unique, ranking, {"a": a, "b": b}, 10)
        for cycle in tables.get("cycle", []):
            order = cycle["order"]
            for a, b in zip(order, order[1:] + order[:1], strict=True):
                _render(unique, cycle, {"a": a, "b": b}, 5)
    for text in _arithmetic():
        unique[text] = Sentence(text, "arithmetic", chosen(text, 10))
    return [Sentence(s.text, s.topic, s.heldout and s.text not in exact) for s in unique.values()]


def _render(
    unique: dict[str, Sentence], table: dict[str, Any], values: dict[str, str], percent: int
) -> None:
    templates = table["templates"]
    for template in templates:
        text = template.format(**values)
        text = text[0].upper() + text[1:]
        heldout = len(templates) >= 3 and chosen(text, percent)
        unique[text] = Sentence(text, table["name"], heldout)


def _rows(block: str) -> list[dict[str, str]]:
    lines = [line for line in block.splitlines() if line.strip()]
    return [dict(zip("abcd", map(str.strip, line.split("|")), strict=False)) for line in lines]


def _arithmetic() -> list[str]:
    numbers = range(ARITHMETIC_LIMIT + 1)
    sums = [f"{a} plus {b} is {a + b}." for a in numbers for b in numbers]
    differences = [f"{a} minus {b} is {a - b}." for a in numbers for b in numbers if a >= b]
    products = [f"{a} times {b} is {a * b}." for a in range(13) for b in range(13)]
    return sums + differences + products
