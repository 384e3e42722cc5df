"""JSON in: where bytes come from, how they fall into records, what those say, as tokens."""
