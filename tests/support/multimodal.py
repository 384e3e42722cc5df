"""Small random models that take images, too."""

from pathlib import Path
from typing import Any

import transformers

from bench.architectures import ARCHITECTURES, make_architecture

KINDS = {
    "gemma3": "Gemma 3, multimodal",
    "llava": "Llava (Mistral inside)",
    "gemma4": "Gemma 4, multimodal",
}


def make_multimodal(folder: Path, kind: str) -> tuple[Path, Any]:
    """A model of `kind` in `folder`, whose text part has four layers that see 16 tokens or all, and
    Hugging Face's class for the whole of it."""
    name = KINDS[kind]
    return make_architecture(name, folder), getattr(transformers, ARCHITECTURES[name].model)
