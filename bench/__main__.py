"""`python -m bench`: every benchmark, with its default settings."""

from bench import batch_sizes, scale

for benchmark in (batch_sizes, scale):
    benchmark.main([])
