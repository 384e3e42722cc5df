"""Which part of a model is run: of one that also takes images or sound, the decoder of its text.

A model of that kind has a text model inside it that is also a model of its own, such as the Llama
in a Llava. It is run as that: no vision tower is loaded, layers are left out as usual, and
TransformerLens makes no image processor, for which it would install packages.
"""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from streamer.errors import UsageError

INSIDE = {
    r"^(?:model\.)?(?:language_model|text_model)\.lm_head\.": "lm_head.",
    r"^(?:model\.)?(?:language_model|text_model)\.(?:model\.)?": "model.",
}
"""What the names of the text part's weights become: in files they begin in one of several ways."""


@dataclass(frozen=True, slots=True)
class ModelPart:
    """What is run of a model."""

    config: Any
    """Hugging Face's, of that part."""
    key_mapping: dict[str, str] | None
    """From names of weights in the model's files to those in the part; None of a whole model."""

    @property
    def is_whole(self) -> bool:
        """Whether the model is nothing but this."""
        return self.key_mapping is None


def model_part(path: str, *, revision: str | None, trust_remote_code: bool) -> ModelPart:
    """What is run of the model at `path`. Each call reads its configuration anew.

    :raises UsageError: it has an encoder, or its text part is no model of its own.
    :raises Exception: whatever Hugging Face makes of a damaged or strange configuration.
    """
    config: Any = AutoConfig.from_pretrained(
        path, revision=revision, trust_remote_code=trust_remote_code
    )
    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(
            f"the model {path} is an encoder-decoder ({config.model_type}): its tokens see those "
            f"that come after them, or another text. Choose a model that is a decoder only."
        )
    text = config.get_text_config(decoder=True)
    if text is config:
        return ModelPart(config, None)
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UsageError(
            f"the model {path} ({config.model_type}) takes more than text, and Hugging Face has no "
            f"class that runs its text part ({text.model_type}) alone. Choose a text-only model."
        )
    # TransformerLens picks its adapter by this name
    text.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(text)].__name__]
    return ModelPart(text, INSIDE)
