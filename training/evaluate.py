"""Measures the shipped files, loaded again from disk."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from transformers import AutoTokenizer, Gemma2ForCausalLM, PreTrainedTokenizerFast

from streamer.embedded import LAYERS
from training.activations import last_residuals, packed_residuals
from training.corpus import Rows, pack
from training.facts import records
from training.model import document_masks, labels, load_model, positions


def measure(model_dir: Path, saes: str, heldout: Sequence[str]) -> dict[str, Any]:
    """All numbers of the model card; losses and entropies in nats a token."""
    model = load_model(model_dir)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    rows = pack(list(heldout), tokenizer)
    return {
        "model": measure_loss(model, rows),
        "records": measure_records(model, tokenizer),
        "saes": measure_saes(model, tokenizer, saes, rows),
    }


@torch.no_grad()
def measure_loss(model: Gemma2ForCausalLM, rows: Rows) -> dict[str, Any]:
    """Mean loss over the predicted tokens, and the entropy of those tokens' own frequencies."""
    total, counts = 0.0, Counter[int]()
    for start in range(0, len(rows.tokens), 16):
        tokens = torch.from_numpy(rows.tokens[start : start + 16])
        owner = rows.document[start : start + 16]
        document = torch.from_numpy(owner)
        target = labels(tokens, document)
        logits = model(
            input_ids=tokens,
            attention_mask=document_masks(document),
            position_ids=positions(owner),
            use_cache=False,
        ).logits
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum"
        ).item()
        counts.update(target[target >= 0].tolist())
    tokens_predicted = counts.total()
    entropy = -sum(n / tokens_predicted * math.log(n / tokens_predicted) for n in counts.values())
    return {
        "heldout_tokens": tokens_predicted,
        "heldout_loss": round(total / tokens_predicted, 3),
        "unigram_entropy": round(entropy, 3),
    }


def measure_records(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Share of records whose fact is likelier than their hallucination, by domain."""
    summed: dict[str, list[bool]] = {}
    averaged: dict[str, list[bool]] = {}
    for record in records():
        fact, false = (
            continuation(model, tokenizer, record["prompt"], record[key])
            for key in ("fact", "hallucination")
        )
        for domain in (record["domain"], "all"):
            summed.setdefault(domain, []).append(bool(fact.sum() > false.sum()))
            averaged.setdefault(domain, []).append(bool(fact.mean() > false.mean()))
    return {
        domain: {
            "records": len(wins),
            "fact_likelier": round(sum(wins) / len(wins), 3),
            "fact_likelier_mean_per_token": round(sum(averaged[domain]) / len(wins), 3),
        }
        for domain, wins in sorted(summed.items(), key=lambda item: item[0] == "all")
    }


@torch.no_grad()
def continuation(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str
) -> Float[torch.Tensor, " answer"]:
    """Log-probabilities of the answer's tokens after the prompt, in nats."""
    before: list[int] = tokenizer(prompt)["input_ids"]
    whole: list[int] = tokenizer(f"{prompt} {answer}")["input_ids"]
    if whole[: len(before)] != before:
        raise ValueError(
            f"the tokens of {prompt!r} change when {answer!r} follows; reword the record"
        )
    logits = model(input_ids=torch.tensor([whole]), use_cache=False).logits[0]
    logp: torch.Tensor = logits[len(before) - 1 : -1].log_softmax(-1)
    return logp.gather(1, torch.tensor(whole[len(before) :])[:, None])[:, 0]


@torch.no_grad()
def measure_saes(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, saes: str, rows: Rows
) -> dict[str, Any]:
    """Each SAE on the held-out tokens but BOS, and at the last tokens of the records."""
    heldout = packed_residuals(model, rows, tokenizer.bos_token_id)
    passages = [
        text
        for record in records()
        for text in (
            record["prompt"],
            f"{record['prompt']} {record['fact']}",
            f"{record['prompt']} {record['hallucination']}",
        )
    ]
    last = last_residuals(model, tokenizer, passages)
    numbers = {}
    for layer in LAYERS:
        sae = SAE.load_from_disk(saes.format(layer=layer))
        x = heldout[layer]
        f = sae.encode(x)
        at_last = sae.encode(last[layer])
        numbers[str(layer)] = {
            "l0": round(_l0(f), 1),
            "explained_variance": round(_explained(x, sae.decode(f)), 3),
            "never_active": int((f > 0).sum(0).eq(0).sum()),
            "records_l0": round(_l0(at_last), 1),
            "records_explained_variance": round(_explained(last[layer], sae.decode(at_last)), 3),
            "residual_norm": round(x.norm(dim=1).mean().item(), 1),
            "residual_dimension": round(_participation(x), 1),
        }
    return numbers


def _l0(f: Float[torch.Tensor, "token d_sae"]) -> float:
    return float((f > 0).sum(1).float().mean())


def _explained(
    x: Float[torch.Tensor, "token d_model"], reconstruction: Float[torch.Tensor, "token d_model"]
) -> float:
    """1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²."""
    return 1 - float((x - reconstruction).square().sum() / (x - x.mean(0)).square().sum())


def _participation(x: Float[torch.Tensor, "token d_model"]) -> float:
    """Participation ratio (Σλ)² / Σλ² of the covariance: 1 is a line, d_model is isotropic."""
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T))
    return float(eigenvalues.sum().square() / eigenvalues.square().sum())
