"""Stage 3: the model, its SAEs and the tables on one device, a batch at a time."""
