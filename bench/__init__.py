"""Measurements. Each prints a table and writes JSON with a description of the machine."""
