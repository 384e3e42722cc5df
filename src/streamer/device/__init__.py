"""What differs from device to device: the only room that asks what kind of device one is."""
