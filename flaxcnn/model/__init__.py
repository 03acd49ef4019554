"""Networks: layer specifications to pure functions, and their optimizers."""
