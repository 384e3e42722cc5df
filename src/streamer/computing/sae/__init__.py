"""The sparse autoencoders: found, loaded, checked against the model, run."""
