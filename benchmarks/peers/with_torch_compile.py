"""PyTorch through torch.compile."""

from benchmarks.peers.with_torch import CompiledTorchPeer

PEER = CompiledTorchPeer
