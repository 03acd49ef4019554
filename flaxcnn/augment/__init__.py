"""Augmentation inside the step: each row changed at random, by its number, seed and epoch alone."""
