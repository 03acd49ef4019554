"""What a GPU's or a TPU's own compiler makes of the programs, on a machine that has neither."""
