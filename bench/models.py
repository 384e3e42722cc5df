"""Which models and SAEs run, and how exactly: writes `docs/models.md`, a few minutes on two cores.

python -m bench.models
"""

import functools
import operator
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from transformers.utils import logging

from bench import architecture_table, sae_table
from bench.architecture_table import Row, measure_architectures
from bench.architectures import ARCHITECTURES
from bench.report import machine
from bench.sae_kinds import KINDS, NORMALIZATIONS
from bench.sae_table import Difference, SaeRow, measure_saes

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "models.md"
LIBRARIES = ("torch", "transformers", "transformer-lens", "sae-lens")
TITLE = """# Models and SAEs

What was tried, and how far streamer's numbers are from a slow computation in float64 of one text
at a time. `make models` writes this page; nothing in it is written by hand. It was made with
{libraries}, on a CPU ({cpu}).
"""
ABOUT_ARCHITECTURES = """
## Architectures

Each is a small random model of Hugging Face's own class: four layers, 32 dimensions, a context of
64 tokens and, where the architecture has windows or chunks, of 16 tokens. Its weights are so
large that attention is far from even, so a missing mask, position or rope scaling shows,
and which makes rounding larger than in trained models. Twelve texts of 1 to 60 tokens, most of
which begin alike, run in one batch as `streamer run` would run them. What is read behind every
layer is compared with Hugging Face's own forward pass, in float64, on one text alone. A number is
the largest difference over layers and texts, divided by the norm of what is right. Where more
than rounding is found it is **bold**, and `make models` fails. Dynamic rope scaling begins beyond
the context, where texts are rejected: there it changes nothing.

- **float32**, **float64**: `--dtype`. A model runs natively, as Hugging Face's module up to the
  last hook, with texts that share rows where it can.
- **--bf16**: matrix products in bfloat16, weights in float32. **bfloat16**: the weights, too
  (`--dtype bfloat16`). Its steps are 0.4 %. In a mixture of experts rounding sends some tokens to
  other experts, which changes all of them.
- **bridge**: the same in float32 through TransformerLens' bridge, which runs where a hook inside
  a layer is read (`hook_attn_out`, `hook_mlp_out`, `attn.hook_z` …).
"""
ABOUT_SAES = """
## SAEs

Random SAEs of every kind that SAELens {sae_lens} has, for a model of the architecture {model}, at
each of the hooks {hooks}, behind layers {layers}: the same texts in one batch, from tokens to
features and reconstructions, compared with SAELens in float64 on Hugging Face's float64
activations, one at a time. A number is the largest difference over hooks, layers and texts: that
of the features, or of the reconstruction, divided by the norm of what is right. In brackets: how
many of {of:,} features were active in one of the two only, because rounding took them over their
threshold or out of the strongest; these, and the reconstructions from them, are left out of the
difference. Input is normalised in each way that SAELens has for the kind, of {normalizations};
*any* is all of these; where several share a line, features are counted in each. *Folded* is what
was made part of the weights, as SAELens does at the end of training. A *training checkpoint* is
what SAELens' trainer keeps on the way; *save_inference_model* makes an SAE of it.
"""


def main() -> None:
    """Measure everything, and write the document.

    :raises SystemExit: a number is more than rounding.
    """
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)  # what is multiplied here is too small to share out
    text, wrong = document(list(ARCHITECTURES), list(KINDS))
    DOCUMENT.write_text(text, "utf-8")
    print(f"wrote {DOCUMENT}")
    if wrong:
        raise SystemExit(f"more than rounding: {', '.join(wrong)}")


def document(architectures: Sequence[str], kinds: Sequence[str]) -> tuple[str, list[str]]:
    """The document about these architectures and kinds of SAE, and the names of those whose numbers
    are more than rounding."""
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        rows = []
        for row in measure_architectures(architectures, Path(folder)):
            print(f"{row.name}: {row.runs or 'refused'}", flush=True)
            rows.append(row)
        sae_rows = measure_saes(kinds, Path(folder))
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    of = max((one.of for row in sae_rows for one in row.found.values()), default=0)
    parts = [
        TITLE.format(libraries=libraries, cpu=machine()["cpu"]),
        ABOUT_ARCHITECTURES,
        *_architectures(rows),
        ABOUT_SAES.format(
            sae_lens=version("sae-lens"),
            model=sae_table.MODEL,
            hooks=_quoted(sae_table.HOOKS),
            layers=" and ".join(map(str, sae_table.READ)),
            normalizations=_quoted(name for name, fold in NORMALIZATIONS.values() if not fold),
            of=of,
        ),
        *_saes(sae_rows),
    ]
    wrong = [row.name for row in rows if any(map(row.is_wrong, row.found))]
    wrong += [f"{row.kind}, {row.normalization}" for row in sae_rows if row.is_wrong]
    return "\n".join(parts) + "\n", wrong


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _architectures(rows: Sequence[Row]) -> Iterator[str]:
    sentences: list[str] = []
    yield _line("architecture", "runs", *architecture_table.FORMATS)
    yield _line("---", "---", *("--:" for _ in architecture_table.FORMATS))
    for row in rows:
        if row.runs:
            yield _line(row.name, row.runs, *_cells(row, sentences))
    for number, sentence in enumerate(sentences, 1):
        yield f"\n({number}) {sentence}"
    refused = {row.name: _only(row.found) for row in rows if not row.runs}
    if refused:
        yield "\nRefused, with exit code 2 and this sentence:\n"
        yield _line("architecture", "sentence")
        yield _line("---", "---")
        for name, sentence in refused.items():
            yield _line(name, sentence)


def _cells(row: Row, sentences: list[str]) -> Iterator[str]:
    for column, value in row.found.items():
        if isinstance(value, float):
            yield _number(value, wrong=row.is_wrong(column))
            continue
        if value not in sentences:
            sentences.append(value)
        yield f"refused ({sentences.index(value) + 1})"


def _only(found: Mapping[str, float | str]) -> str:
    """The sentence that refused it, unless another forward pass or format is asked for."""
    return str(next(iter(found.values())))


def _saes(rows: Sequence[SaeRow]) -> Iterator[str]:
    measured = [row for row in rows if row.found]
    yield _line("kind", "normalize_activations", *sae_table.FORMATS)
    yield _line("---", "---", *("--:" for _ in sae_table.FORMATS))
    for kind, normalizations, found in _together(measured):
        cells = (_difference(found[column], column) for column in found)
        yield _line(kind, normalizations, *cells)
    sentences: dict[str, list[SaeRow]] = {}
    for row in rows:
        for sentence, places in row.refused.items():
            always = len(places) == len(sae_table.HOOKS) * len(sae_table.FORMATS)
            where = "" if always else f" (at {', '.join(places)})"
            sentences.setdefault(f"{sentence}{where}", []).append(row)
    if sentences:
        yield "\nRefused, with exit code 2 and this sentence, at every hook:\n"
        yield _line("kind", "normalize_activations", "sentence")
        yield _line("---", "---", "---")
    for sentence, those in sentences.items():
        normalizations = list(dict.fromkeys(row.normalization for row in those))
        every = len(those) == sum(row.kind in {one.kind for one in those} for row in rows)
        yield _line(
            _kinds([row.kind for row in those], [row.kind for row in measured]),
            "any" if every else "; ".join(normalizations),
            sentence,
        )


def _together(rows: Sequence[SaeRow]) -> Iterator[tuple[str, str, dict[str, Difference]]]:
    """A line for each row; for what is made by training, which differs in how it is stored, one for
    all normalisations."""
    kinds: dict[str, list[SaeRow]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    for kind, those in kinds.items():
        if KINDS[kind].is_of_training:
            joined = {
                column: functools.reduce(operator.or_, (row.found[column] for row in those))
                for column in sae_table.FORMATS
            }
            yield kind, "; ".join(row.normalization for row in those), joined
        else:
            for row in those:
                yield kind, row.normalization, row.found


def _kinds(these: Sequence[str], measured: Sequence[str]) -> str:
    """The names of `these`, or those that they lack of the `measured`, whichever are fewer."""
    others = list(dict.fromkeys(kind for kind in measured if kind not in these))
    names = list(dict.fromkeys(these))
    if len(others) < len(names) and set(names) <= set(measured):
        return f"every kind above{' but ' if others else ''}{'; '.join(others)}"
    return "; ".join(names)


def _difference(found: Difference, column: str) -> str:
    number = _number(found.largest, wrong=found.is_wrong(column))
    return f"{number} ({found.flips})" if found.flips else number


def _number(value: float, *, wrong: bool) -> str:
    digits, _, power = f"{value:.0e}".partition("e")
    short = f"{digits}e{int(power)}" if power else digits
    return f"**{short}**" if wrong else short


def _line(*cells: str) -> str:
    inside = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(inside)} |"


if __name__ == "__main__":
    main()
