"""A run afterwards: opened, read, summed up, checked."""
