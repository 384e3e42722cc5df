"""A run looked over afterwards: `streamer check`, which writes nothing, and `--repair`."""
