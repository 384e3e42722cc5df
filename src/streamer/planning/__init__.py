"""Stage 2: records in input order become packed batches within a budget."""
