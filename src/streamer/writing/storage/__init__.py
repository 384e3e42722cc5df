"""Where a run is written: the only place that knows paths, renames, fsync and locks."""
