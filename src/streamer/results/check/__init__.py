"""Verifies a run afterwards: `streamer check`, which writes nothing, and `--repair`."""
