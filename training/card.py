"""Writes the model card from the measured numbers."""

import json
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent / "card.md"


def write_card(path: Path, numbers: dict[str, Any], facts: dict[str, Any]) -> None:
    """Fills the template: `numbers` from `training.evaluate.measure`, `facts` of the build."""
    loss, by_domain, saes = numbers["model"], numbers["records"], numbers["saes"]
    loss_table = _table(
        ["held-out tokens", "held-out loss", "unigram entropy"],
        [[f"{loss['heldout_tokens']:,}", loss["heldout_loss"], loss["unigram_entropy"]]],
    )
    record_table = _table(
        ["domain", "records", "fact likelier", "by mean per token"],
        [
            [
                domain,
                row["records"],
                f"{row['fact_likelier']:.1%}",
                f"{row['fact_likelier_mean_per_token']:.1%}",
            ]
            for domain, row in by_domain.items()
        ],
    )
    columns = ["l0", "explained_variance", "never_active", "records_l0"]
    columns += ["records_explained_variance", "residual_norm", "residual_dimension"]
    names = ["L0", "explained variance", "never active", "L0 on records"]
    names += ["explained variance on records", "mean residual norm", "dimension"]
    sae_table = _table(
        ["layer", *names],
        [[layer, *(row[column] for column in columns)] for layer, row in saes.items()],
    )
    text = TEMPLATE.read_text("utf-8").format(
        loss_table=loss_table,
        record_table=record_table,
        sae_table=sae_table,
        numbers=json.dumps(numbers, indent=1),
        **facts,
    )
    path.write_text(text, "utf-8")


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
