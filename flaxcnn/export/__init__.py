"""Trained networks as files that other programs read: safetensors, StableHLO, ONNX."""
