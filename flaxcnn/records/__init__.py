"""What runs, studies and searches leave on disk: written whole, read strictly, without jax."""
