"""What a network loses by not saying what its teacher says."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def divergence(logits: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    """temperature^2 * KL(p of the teacher, p of the network) of each row, [B] float32.

    Hinton et al. 2015 (arXiv:1503.02531), section 2: the factor keeps gradients as large as those
    of the loss of labels, whatever the temperature. Both logits are [B, K] float32.
    """
    said, meant = (jax.nn.log_softmax(x / temperature) for x in (logits, teacher))
    return temperature**2 * jnp.sum(jnp.exp(meant) * (meant - said), axis=-1)
