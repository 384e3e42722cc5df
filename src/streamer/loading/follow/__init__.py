"""Inputs that grow while they are read."""
