"""The transformer: found, loaded, and run up to the last hook."""
