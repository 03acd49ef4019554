"""What a checkpoint holds, as one digest: nothing that was changed is read as what was saved."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np

from flaxcnn.errors import CheckpointError

Tree = Any


def tree_digest(tree: Tree) -> str:
    """SHA-256 (hex) over path, dtype, shape and bytes of every leaf, in path order."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def seal(arrays: str, record: dict[str, Any]) -> str:
    """One digest for the digest of the `arrays` and all else that a checkpoint's record says.

    Its prefix tells it from that of the arrays alone, which older checkpoints have: neither can be
    taken for the other.
    """
    said = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps([arrays, said], sort_keys=True)
    return "all:" + hashlib.sha256(text.encode()).hexdigest()


def verify(counts: str, epoch: int, arrays: str, record: Any) -> None:
    """CheckpointError unless the digest of the arrays and the record are those that were saved."""
    digest = record.get("digest") if isinstance(record, dict) else None
    if not isinstance(digest, str) or record.get(counts) != epoch:
        what = "its progress is not what was saved"
    elif digest == seal(arrays, record) or digest == arrays:  # the latter up to version 0.1
        return
    else:
        what = "its arrays or its progress are not those that were saved"
    raise CheckpointError(f"checkpoint of {counts} {epoch} is damaged: {what}")
