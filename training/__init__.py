"""Builds what `streamer.embedded` ships: tokenizer, language model, SAEs and model card."""
