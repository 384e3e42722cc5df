"""Stage 4: tables in input order become parts, and parts become commits."""
