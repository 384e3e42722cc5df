"""Stage 1: bytes become tokenized records."""
