"""Small random models that take images, too."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from streamer import embedded

KINDS = ("gemma3", "llava", "gemma4")
LAYERS = 4
SEEN = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


def make_multimodal(folder: Path, kind: str) -> tuple[Path, Any]:
    """A model of `kind` in `folder`, whose text part has `LAYERS` layers that see 16 tokens or all,
    and Hugging Face's class for the whole of it."""
    tokenizer = AutoTokenizer.from_pretrained(str(embedded.MODEL))
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "intermediate_size": 64, "max_position_embeddings": 256, "sliding_window": 16,
        "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "gemma3":
        config: Any = transformers.Gemma3Config(
            text_config=text, vision_config=SEEN, mm_tokens_per_image=4, image_token_index=5,
            boi_token_index=6, eoi_token_index=7,
        )  # fmt: skip
        whole: Any = transformers.Gemma3ForConditionalGeneration
    elif kind == "llava":
        config = transformers.LlavaConfig(
            text_config=transformers.MistralConfig(**text),
            vision_config=transformers.CLIPVisionConfig(projection_dim=16, **SEEN),
            image_token_index=5,
        )
        whole = transformers.LlavaForConditionalGeneration
    else:
        own = {
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(tokenizer),
            "num_kv_shared_layers": 2, "global_head_dim": 8, "num_global_key_value_heads": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        }  # fmt: skip
        seen = {**SEEN, "num_key_value_heads": 2, "head_dim": 8}
        del seen["image_size"]
        config = transformers.Gemma4Config(
            text_config=text | own, vision_config=seen, audio_config=None
        )
        whole = transformers.Gemma4ForConditionalGeneration
    path = folder / kind
    whole(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path, whole
