"""The SAEs of `docs/models.md`: random ones of every kind that SAELens has, with every way of
normalising their input."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata

from bench.architectures import D_MODEL

D_SAE, K, FACTOR = 48, 8, 0.3
FEW = {
    "topk": {"k": K},
    "abstopk": {"k": K},
    "batchtopk": {"k": K},
    "matryoshka_batchtopk": {"k": K, "matryoshka_widths": [16]},
    "matching_pursuit": {"max_iterations": K, "residual_threshold": 0.1},
    "temporal": {"n_heads": 2, "bottleneck_factor": 4, "kval_topk": K},
    **{
        name: {"d_out": D_MODEL, "apply_b_dec_to_input": False}
        for name in SAE_CLASS_REGISTRY
        if "transcoder" in name
    },
}
"""What an architecture must be told."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of SAE, as SAELens makes it and as it saves it."""

    architecture: str
    settings: dict[str, Any] = field(default_factory=dict)
    registry: dict[str, Any] = field(default_factory=lambda: SAE_CLASS_REGISTRY)
    save: str = "save_model"

    @property
    def is_of_training(self) -> bool:
        """Whether it is what SAELens' trainer makes."""
        return self.registry is SAE_TRAINING_CLASS_REGISTRY


def _kinds() -> dict[str, Kind]:
    kinds = {name: Kind(name) for name in SAE_CLASS_REGISTRY}
    for name in ("topk", "abstopk"):
        kinds[f"{name}, rescale_acts_by_decoder_norm"] = Kind(
            name, {"rescale_acts_by_decoder_norm": True}
        )
    kinds["jumprelu, apply_b_dec_to_input false"] = Kind(
        "jumprelu", {"apply_b_dec_to_input": False}
    )
    for name in SAE_TRAINING_CLASS_REGISTRY:
        of_training = {"registry": SAE_TRAINING_CLASS_REGISTRY}
        kinds[f"{name}, training checkpoint"] = Kind(name, **of_training)
        kinds[f"{name}, save_inference_model of that"] = Kind(
            name, **of_training, save="save_inference_model"
        )
    return kinds


KINDS = _kinds()


def _fold_factor(sae: Any) -> None:
    sae.fold_activation_norm_scaling_factor(FACTOR)


def _fold_whitening(sae: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(D_MODEL, generator=generator)
    matrix = torch.eye(D_MODEL) + 0.1 * torch.randn(D_MODEL, D_MODEL, generator=generator)
    sae.fold_activation_whitening(mean, matrix, torch.linalg.inv(matrix))


NORMALIZATIONS: dict[str, tuple[str, Callable[[Any], None] | None]] = {
    "none": ("none", None),
    "constant_norm_rescale": ("constant_norm_rescale", None),
    "constant_scalar_rescale": ("constant_scalar_rescale", None),
    "layer_norm": ("layer_norm", None),
    "expected_average_only_in": ("expected_average_only_in", None),
    "expected_average_only_in, folded": ("expected_average_only_in", _fold_factor),
    "covariance_whitening": ("covariance_whitening", None),
    "covariance_whitening, folded": ("covariance_whitening", _fold_whitening),
}
"""`normalize_activations`, and what folds it into the weights."""


def make_kind(kind: str, normalization: str, hook: str, path: Path) -> bool:
    """Save an SAE of that kind, trained on `hook`, in `path`. False if SAELens has none such."""
    made, (normalize, fold) = KINDS[kind], NORMALIZATIONS[normalization]
    sae_class, config_class = made.registry[made.architecture]
    settings = {**FEW.get(made.architecture, {}), **made.settings}
    if hook.endswith("hook_z"):
        settings["reshape_activations"] = "hook_z"
    metadata = SAEMetadata(hook_name=hook, prepend_bos=False, model_name="qwen3")
    try:
        config = config_class(
            d_in=D_MODEL,
            d_sae=D_SAE,
            normalize_activations=normalize,
            metadata=metadata,
            **settings,
        )
        sae = sae_class(config)
        _randomize(sae, torch.Generator().manual_seed(len(hook)))
        if fold is not None:
            fold(sae)
    except (ValueError, NotImplementedError):  # SAELens has no such kind
        return False
    getattr(sae, made.save)(path)
    return True


@torch.no_grad()
def _randomize(sae: Any, generator: torch.Generator) -> None:
    for name, weight in sae.named_parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator)).mul_(0.3)
        if name.endswith("threshold"):  # as it is, or its logarithm
            weight.abs_()
        elif name == "W_dec" and "matching" in sae.cfg.architecture():
            weight.div_(weight.norm(dim=1, keepdim=True))  # it is defined for unit directions
    if hasattr(sae, "topk_threshold"):  # what training with batches leaves behind
        sae.topk_threshold.fill_(0.5)
