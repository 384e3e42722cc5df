"""Which records run through the model together."""
