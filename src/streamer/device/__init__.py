"""What differs from device to device: memory, transfers, errors."""
