"""Trains one SAE a layer with SAELens: BatchTopK in training, JumpReLU as shipped."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file

from training.corpus import ROW

WIDTH = 1024
MODEL_NAME = "streamer-embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeRecipe:
    """How each SAE is trained."""

    active: int = 32
    """Features active at a token, on average over a batch."""
    samples: int = 2_000_000
    batch: int = 2048
    lr: float = 1e-3
    seed: int = 0


def train_sae(
    residuals: Float[torch.Tensor, "token d_model"],
    layer: int,
    recipe: SaeRecipe,
    directory: Path,
) -> None:
    """Trains on shuffled residuals and writes a SAELens directory with float16 weights."""
    torch.manual_seed(recipe.seed + layer)
    config = BatchTopKTrainingSAEConfig(
        d_in=residuals.shape[1],
        d_sae=WIDTH,
        k=recipe.active,
        normalize_activations="expected_average_only_in",
        metadata=SAEMetadata(
            model_name=MODEL_NAME,
            hook_name=f"blocks.{layer}.hook_resid_post",
            prepend_bos=True,
            context_size=ROW,
        ),
    )
    steps = recipe.samples // recipe.batch
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=recipe.samples,
            train_batch_size_samples=recipe.batch,
            lr=recipe.lr,
            lr_end=recipe.lr / 10,
            lr_warm_up_steps=steps // 20,
            lr_decay_steps=steps // 3,
            dead_feature_window=200,
            n_batches_for_norm_estimate=20,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=BatchTopKTrainingSAE(config),
        data_provider=_batches(residuals, recipe),
    )
    shutil.rmtree(directory, ignore_errors=True)
    trainer.fit().save_inference_model(directory)
    _round(directory)


def _batches(
    residuals: Float[torch.Tensor, "token d_model"], recipe: SaeRecipe
) -> Iterator[Float[torch.Tensor, "batch d_model"]]:
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        order = torch.randperm(len(residuals), generator=generator)
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            yield residuals[order[start : start + recipe.batch]]


def _round(directory: Path) -> None:
    """Stores the weights in float16; the configuration's dtype, float32, is what they load as."""
    weights = directory / "sae_weights.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    weights.chmod(0o644)  # safetensors writes for the owner alone
    config = directory / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")), indent=1) + "\n", "utf-8")


@torch.no_grad()
def calibrate(
    residuals: Float[torch.Tensor, "token d_model"], recipe: SaeRecipe, directory: Path
) -> None:
    """Sets the one threshold of all features so that `recipe.active` are active on average.

    BatchTopK's running threshold follows the smallest value that a batch keeps, which lags and
    is noisy; the quantile over many tokens is what it estimates.
    """
    sae = SAE.load_from_disk(directory)
    before = sae.process_sae_in(residuals) @ sae.W_enc + sae.b_enc
    kept = recipe.active * len(residuals)
    threshold = before.flatten().topk(kept).values[-1]
    weights = directory / "sae_weights.safetensors"
    state = load_file(weights)
    state["threshold"] = torch.full_like(state["threshold"], float(threshold))
    save_file(state, weights)
    weights.chmod(0o644)


def train_saes(
    residuals: dict[int, Float[torch.Tensor, "token d_model"]],
    recipe: SaeRecipe,
    template: str,
    say: Callable[[str], None],
) -> None:
    """One SAE for each layer in `residuals`, written to `template` with its layer filled in."""
    for layer, tokens in residuals.items():
        directory = Path(template.format(layer=layer))
        train_sae(tokens, layer, recipe, directory)
        calibrate(tokens[:20_000], recipe, directory)
        say(f"SAE of layer {layer}: trained on {recipe.samples:,} of {len(tokens):,} tokens")
