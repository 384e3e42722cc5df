"""Trains the Gemma-2 model and stores it in float16."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from training.corpus import Corpus, epochs

LAYERS = 6
WINDOW = 128
"""Tokens that a sliding layer sees; every other layer, from the first on, slides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the model is trained."""

    steps: int = 1500
    rows: int = 8
    """Rows of 256 tokens in a step."""
    lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.1
    seed: int = 0


def new_model(vocabulary: int) -> Gemma2ForCausalLM:
    """An untrained model of two million parameters."""
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        intermediate_size=512,
        sliding_window=WINDOW,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma2ForCausalLM._from_config(config, attn_implementation="eager")


def document_masks(
    document: Int[torch.Tensor, "batch position"],
) -> dict[str, Float[torch.Tensor, "batch 1 query key"]]:
    """Additive masks, one for each kind of layer: a token sees the past of its own document."""
    length = document.shape[1]
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    own = (document[:, :, None] == document[:, None, :]) & (distance >= 0)

    def additive(seen: Bool[torch.Tensor, "batch query key"]) -> torch.Tensor:
        return torch.zeros(seen.shape).masked_fill(~seen, -1e9)[:, None]

    return {
        "full_attention": additive(own),
        "sliding_attention": additive(own & (distance < WINDOW)),
    }


def positions(document: NDArray[np.int64]) -> Int[torch.Tensor, "batch position"]:
    """Positions that restart with each document of a row."""
    index = np.arange(document.shape[1])[None, :].repeat(len(document), 0)
    starts = np.diff(document, axis=1, prepend=-2) != 0
    return torch.from_numpy(index - np.maximum.accumulate(np.where(starts, index, 0), axis=1))


def labels(
    tokens: Int[torch.Tensor, "batch position"], document: Int[torch.Tensor, "batch position"]
) -> Int[torch.Tensor, "batch position"]:
    """The next token of the same document, or −100 where there is none."""
    same = document[:, 1:] == document[:, :-1]
    keep = same & (document[:, 1:] >= 0)
    target = torch.full_like(tokens, -100)
    target[:, :-1] = torch.where(keep, tokens[:, 1:], -100)
    return target


def train_model(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    say: Callable[[str], None],
) -> Gemma2ForCausalLM:
    """A model trained by `recipe`, on packed documents that do not see each other."""
    torch.manual_seed(recipe.seed)
    model = new_model(len(tokenizer))
    optimizer = _optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    source = epochs(corpus, tokenizer, recipe.seed)
    packed, row, smooth = next(source), 0, 0.0
    for step in range(recipe.steps):
        if row + recipe.rows > len(packed.tokens):
            packed, row = next(source), 0
        tokens = torch.from_numpy(packed.tokens[row : row + recipe.rows])
        owner = packed.document[row : row + recipe.rows]
        row += recipe.rows
        document = torch.from_numpy(owner)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(
                input_ids=tokens,
                attention_mask=document_masks(document),
                position_ids=positions(owner),
                use_cache=False,
            ).logits
        loss = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels(tokens, document).flatten(), ignore_index=-100
        )
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 99:
            say(f"model: step {step + 1} of {recipe.steps}, loss {smooth:.3f} nats a token")
    return model.eval()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)


def _rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2


def save_model(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path
) -> None:
    """Writes weights (rounded to float16), configuration and tokenizer."""
    model.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone


def load_model(directory: Path) -> Gemma2ForCausalLM:
    """The shipped model, its float16 weights in float32."""
    return Gemma2ForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
