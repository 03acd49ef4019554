"""flaxcnn: CNN image classifiers in JAX and Flax, trained fast, with results one can trust."""

__version__ = "0.1.0"
