"""What to train: plain frozen values, no jax."""
