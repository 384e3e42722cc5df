"""The architectures of `docs/models.md`: small random models of Hugging Face's own classes.

Each has four layers and 32 dimensions, a context of 64 tokens, windows of 16, the embedded
tokenizer, and weights so large that attention is far from even; norms and biases are random, too.
What is not said of a model here is as in its class' configuration.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from streamer import embedded

LAYERS, D_MODEL, WINDOW, CONTEXT = 4, 32, 16, 64
SIZES = {
    "hidden_size": D_MODEL, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64,
    "max_position_embeddings": CONTEXT, "sliding_window": WINDOW, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
}  # fmt: skip
"""What most configurations call their sizes; each is given those that it knows."""
SEEN = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
"""Of the part that sees images, which is never run."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model: Hugging Face's configuration, and what it says beyond the sizes."""

    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = "AutoModelForCausalLM"
    """The class that makes it, and runs the whole of it."""
    text: str = ""
    """The configuration of its text part, if it takes more than text; `settings` are that's."""
    hook: str = "hook_resid_post"
    """Which is read, of every layer."""


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **settings}}


TURNS = [1.0, 1.2, 1.4, 2.0]
LONGROPE = {
    "original_max_position_embeddings": CONTEXT,
    "max_position_embeddings": 4 * CONTEXT,
    **_rope(
        "longrope",
        short_factor=TURNS,
        long_factor=[4 * turn for turn in TURNS],
        original_max_position_embeddings=CONTEXT,
    ),
}
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 8, "head_dim": 8, "first_k_dense_replace": 1,
}  # fmt: skip
SHARED_KEYS = {
    "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
GEMMA_4 = {**SHARED_KEYS, "global_head_dim": 8, "num_global_key_value_heads": 2}
T5_SIZES = {"d_model": D_MODEL, "d_kv": 8, "d_ff": 64, "num_layers": LAYERS, "num_heads": 4}
OLD_FALCON = {"multi_query": False, "parallel_attn": False}
NEW_FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2}

ARCHITECTURES = {
    "GPT-2": Architecture("GPT2Config"),
    "GPT-Neo": Architecture(
        "GPTNeoConfig",
        {"attention_types": [[["global", "local"], LAYERS // 2]], "window_size": WINDOW},
    ),
    "GPT-J": Architecture("GPTJConfig", {"rotary_dim": 8}),
    "GPT-NeoX (Pythia)": Architecture("GPTNeoXConfig"),
    "GPT-BigCode (StarCoder)": Architecture("GPTBigCodeConfig"),
    "CodeGen": Architecture("CodeGenConfig", {"rotary_dim": 8}),
    "OPT": Architecture("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": D_MODEL}),
    "BLOOM": Architecture("BloomConfig"),
    "MPT": Architecture("MptConfig", {"max_seq_len": CONTEXT, "expansion_ratio": 2}),
    "Falcon 7B: one key": Architecture("FalconConfig"),
    "Falcon 40B: grouped keys": Architecture("FalconConfig", {**NEW_FALCON, "multi_query": True}),
    "Falcon 40B, multi_query false": Architecture(
        "FalconConfig", {**NEW_FALCON, "multi_query": False}
    ),
    "Falcon RW: ALiBi": Architecture("FalconConfig", {**OLD_FALCON, "alibi": True}),
    "Llama 2": Architecture("LlamaConfig"),
    "Llama, tied embeddings": Architecture("LlamaConfig", {"tie_word_embeddings": True}),
    "Llama 3, rope scaling llama3": Architecture(
        "LlamaConfig",
        _rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=WINDOW,
        ),
    ),
    "Llama, rope scaling linear": Architecture("LlamaConfig", _rope("linear", factor=4.0)),
    "Llama, rope scaling dynamic": Architecture("LlamaConfig", _rope("dynamic", factor=4.0)),
    "Llama, rope scaling yarn": Architecture(
        "LlamaConfig", _rope("yarn", factor=4.0, original_max_position_embeddings=WINDOW)
    ),
    "Llama 4: chunks": Architecture(
        "Llama4TextConfig",
        {
            "attention_chunk_size": WINDOW,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 64,
        },
    ),
    "Llama, is_causal false": Architecture("LlamaConfig", {"is_causal": False}),
    "Llava (Mistral inside)": Architecture(
        "LlavaConfig", model="LlavaForConditionalGeneration", text="MistralConfig"
    ),
    "Mistral": Architecture("MistralConfig"),
    "Mixtral": Architecture("MixtralConfig"),
    "Qwen 2": Architecture("Qwen2Config"),
    "Qwen 2, windows in some layers": Architecture(
        "Qwen2Config", {"use_sliding_window": True, "max_window_layers": 1}
    ),
    "Qwen 2 MoE": Architecture("Qwen2MoeConfig"),
    "Qwen 2.5 VL": Architecture(
        "Qwen2_5_VLConfig", model="Qwen2_5_VLForConditionalGeneration", text="Qwen2_5_VLTextConfig"
    ),
    "Qwen 3": Architecture("Qwen3Config"),
    "Qwen 3 MoE": Architecture("Qwen3MoeConfig"),
    "Qwen 3 Next": Architecture("Qwen3NextConfig"),
    "Gemma": Architecture("GemmaConfig"),
    "Gemma 2": Architecture("Gemma2Config", {"query_pre_attn_scalar": 8}),
    "Gemma 3, text only": Architecture("Gemma3TextConfig"),
    "Gemma 3, multimodal": Architecture(
        "Gemma3Config", model="Gemma3ForConditionalGeneration", text="Gemma3TextConfig"
    ),
    "Gemma 3, bidirectional": Architecture(
        "Gemma3TextConfig", {"use_bidirectional_attention": True}
    ),
    "Gemma 3n": Architecture("Gemma3nTextConfig", {**SHARED_KEYS, "laurel_rank": 4}),
    "Gemma 4, text only": Architecture("Gemma4TextConfig", GEMMA_4),
    "Gemma 4, multimodal": Architecture(
        "Gemma4Config", GEMMA_4, model="Gemma4ForConditionalGeneration", text="Gemma4TextConfig"
    ),
    "VaultGemma": Architecture("VaultGemmaConfig", {"query_pre_attn_scalar": 8}),
    "RecurrentGemma": Architecture("RecurrentGemmaConfig"),
    "Phi 1": Architecture("PhiConfig"),
    "Phi 3": Architecture("Phi3Config"),
    "Phi 3, rope scaling longrope": Architecture("Phi3Config", LONGROPE),
    "Phi 3.5 MoE": Architecture("PhimoeConfig"),
    "OLMo": Architecture("OlmoConfig"),
    "OLMo 2": Architecture("Olmo2Config"),
    "OLMo 3": Architecture("Olmo3Config"),
    "OLMoE": Architecture("OlmoeConfig"),
    "StableLM": Architecture("StableLmConfig"),
    "Granite": Architecture("GraniteConfig"),
    "Granite MoE": Architecture("GraniteMoeConfig"),
    "Cohere": Architecture("CohereConfig"),
    "Cohere 2": Architecture("Cohere2Config"),
    "SmolLM 3": Architecture("SmolLM3Config"),
    "GPT-OSS: sinks": Architecture("GptOssConfig"),
    "DeepSeek 2": Architecture("DeepseekV2Config", {**LATENT, "topk_group": 1, "n_group": 1}),
    "DeepSeek 3": Architecture("DeepseekV3Config", {**LATENT, "topk_group": 1, "n_group": 1}),
    "StarCoder 2": Architecture("Starcoder2Config"),
    "GLM": Architecture("GlmConfig"),
    "GLM 4": Architecture("Glm4Config"),
    "Nemotron": Architecture("NemotronConfig"),
    "EXAONE 4": Architecture("Exaone4Config"),
    "ERNIE 4.5": Architecture("Ernie4_5Config"),
    "Seed-OSS": Architecture("SeedOssConfig"),
    "Arcee": Architecture("ArceeConfig"),
    "Apertus": Architecture("ApertusConfig"),
    "LFM 2": Architecture("Lfm2Config"),
    "Helium": Architecture("HeliumConfig"),
    "Mamba": Architecture("MambaConfig"),
    "T5": Architecture("T5Config", T5_SIZES, model="T5ForConditionalGeneration"),
    "BART": Architecture(
        "BartConfig",
        {"encoder_layers": LAYERS, "decoder_layers": LAYERS, "d_model": D_MODEL},
        model="BartForConditionalGeneration",
    ),
    "BERT": Architecture("BertConfig", model="BertForMaskedLM", hook="hook_out"),
}  # fmt: skip


def make_architecture(name: str, folder: Path) -> Path:
    """A random model of the architecture `name` in `folder`, always the same."""
    path = folder / "".join(letter for letter in name.lower() if letter.isalnum())
    tokenizer = AutoTokenizer.from_pretrained(str(embedded.MODEL))
    model = _class_of(name)
    config = config_of(ARCHITECTURES[name], tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # some biases begin at random
        made = model.from_config(config) if hasattr(model, "from_config") else model(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            random = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.add_(random, alpha=0.2)
            else:
                weight.copy_(random).mul_(0.3)
    made.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _class_of(name: str) -> Any:
    return getattr(transformers, ARCHITECTURES[name].model)


def load_whole(name: str, path: Path) -> Any:
    """Hugging Face's model of the architecture `name` at `path`, whole, in float64."""
    model = _class_of(name).from_pretrained(path, dtype=torch.float64).eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # others have no float64
    return model


def config_of(architecture: Architecture, tokenizer: Any) -> Any:
    """Its configuration, for models with that tokenizer."""
    special = {
        key: getattr(tokenizer, key) for key in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    inner = architecture.text or architecture.config
    known = {"vocab_size": len(tokenizer), "vocab_size_per_layer_input": len(tokenizer), **SIZES}
    takes = getattr(transformers, inner)
    named = {**takes().to_dict(), **takes.attribute_map}
    settings = {key: value for key, value in known.items() if key in named}
    settings |= special | architecture.settings
    if not architecture.text:
        return takes(**settings)
    seen: Any = SEEN
    if architecture.config == "LlavaConfig":
        seen = transformers.CLIPVisionConfig(projection_dim=16, **SEEN)
        return transformers.LlavaConfig(
            text_config=takes(**settings), vision_config=seen, image_token_index=5
        )
    return getattr(transformers, architecture.config)(text_config=settings, vision_config=seen)
