"""Rows out: the schema, Parquet parts that appear whole or not at all, the manifest."""
