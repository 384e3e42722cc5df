"""What a run shows of itself: counts, snapshots, status.json, the display, Prometheus metrics."""
