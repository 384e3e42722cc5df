"""One run from start to end: prepared, loaded, opened, streamed, closed."""
