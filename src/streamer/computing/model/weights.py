"""Reads a model's weights: no pickles, none made up, and what is wrong with its files in words."""

import json
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamer.device.loading import straight_onto
from streamer.errors import UsageError

HEAD = r"^(?:.*\.)?(?:lm_head|embed_out)\.weight$"
"""Names of the output embedding, which in tied models is the input embedding, too."""


def load_weights(
    kind: Any, path: str, *, device: torch.device, trust_remote_code: bool, **how: Any
) -> nn.Module:
    """What `kind.from_pretrained` makes of the files at `path` with `how`, its weights put onto
    `device` one by one. Pickles are read only if `trust_remote_code`.

    :raises UsageError: the files lack weights, or are pickles or damaged.
    :raises Exception: whatever else Hugging Face makes of the model.
    """
    check_files(path, trust_remote_code=trust_remote_code)
    how |= {
        "use_safetensors": None if trust_remote_code else True,
        "output_loading_info": True,
        "device_map": straight_onto(device),
        "trust_remote_code": trust_remote_code,
    }
    try:
        model, report = kind.from_pretrained(path, **how)
    except (OSError, ValueError) as error:
        if trust_remote_code or "use_safetensors" not in str(error):
            raise
        raise pickled(path, ["pytorch_model.bin"]) from error
    tied = _embedding_under_another_name(model, report)
    if tied:
        how["key_mapping"] = {**tied, **(how.get("key_mapping") or {})}
        model, report = kind.from_pretrained(path, **how)
    # nothing that is read comes from an encoder's pooler, which many files lack
    refuse_missing(path, [key for key in report["missing_keys"] if "pooler" not in key])
    if model.dtype == torch.float64:
        model.set_experts_implementation("eager")  # grouped products have no float64
    module: nn.Module = model
    return module


def _embedding_under_another_name(model: Any, report: dict[str, Any]) -> dict[str, str]:
    """The key mapping for a tied model whose files have the embedding only as the output's, which
    would be read as that and then replaced by the input's, made up; empty for any other."""
    config, missing = model.config.get_text_config(), list(report["missing_keys"])
    if not getattr(config, "tie_word_embeddings", False) or len(missing) != 1:
        return {}
    embedding = model.get_input_embeddings().weight
    names = [name for name, one in model.named_parameters() if one is embedding]
    if missing[0] not in names:
        return {}
    return {HEAD: missing[0]}


def refuse_missing(path: str, keys: Collection[str]) -> None:
    """Hugging Face makes up the weights that a model's files lack, at random.

    :raises UsageError: there are any.
    """
    if keys:
        some = ", ".join(sorted(keys)[:3])
        raise UsageError(
            f"cannot load the model {path}: its files lack {len(keys)} weights, among them {some}"
        )


def check_files(path: str, *, trust_remote_code: bool) -> None:
    """Return if the weight files in the directory `path` may be read and are whole. What comes from
    the hub is not looked at: it was compared with its hash when it was downloaded.

    :raises UsageError: they are pickles that are not to be trusted, or one is missing or cut off.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"cannot load the model {path}: it has an adapter (adapter_config.json), which may or "
            f"may not be applied to its weights. Merge it once with peft: "
            f"merge_and_unload().save_pretrained(folder), and give that folder."
        )
    files = sorted(folder.glob("*.safetensors"))
    pickles = sorted(folder.glob("*.bin"))
    if not files and pickles and not trust_remote_code:
        raise pickled(path, [file.name for file in pickles])
    for file in () if files else pickles:
        with file.open("rb") as content:
            is_archive = content.read(2) == b"PK"
        if is_archive and not zipfile.is_zipfile(file):  # its directory is at its end
            raise UsageError(
                f"cannot load the model {path}: {file.name} is damaged or not whole: it begins as "
                f"an archive and does not end as one. Copy or download it again."
            )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"cannot load the model {path}: {index.name} is damaged or not whole. Copy or "
                f"download it again."
            ) from None
        missing = sorted(named - {file.name for file in files})
        if missing:
            raise UsageError(
                f"cannot load the model {path}: {len(missing)} of its {len(named)} weight files "
                f"are missing, among them {missing[0]}. Copy or download them."
            )
    for file in files:
        expected, size = _whole_size(file), file.stat().st_size
        if expected != size:
            raise UsageError(
                f"cannot load the model {path}: {file.name} is damaged or not whole: by its "
                f"header it has {expected:,} bytes, and there are {size:,}. Copy or download it "
                f"again."
            )


def pickled(path: str, names: Sequence[str]) -> UsageError:
    """The error for a model whose weights are only in pickles."""
    return UsageError(
        f"cannot load the model {path}: its weights are pickles ({', '.join(names[:2])}), which "
        f"can run code when they are loaded. If you trust them, give --trust-remote-code; or load "
        f"them once with Hugging Face, whose save_pretrained writes safetensors."
    )


def _whole_size(file: Path) -> int:
    """How many bytes a safetensors file has by its own header; as many as it would need to have one
    if it has none."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        try:
            header = json.loads(content.read(length)) if length < file.stat().st_size else {}
            ends = [one["data_offsets"][1] for name, one in header.items() if name[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            ends = []
    return 8 + length + max(ends, default=0)
