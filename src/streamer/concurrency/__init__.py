"""Queues, threads and retries. Nothing here knows a record."""
