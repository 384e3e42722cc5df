"""Where a run is written: one small interface, and a local directory behind it."""
