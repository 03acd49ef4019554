"""For upstream: jaxlib 0.12's YNNPACK convolutions copy their input kernel-fold; 0.10.1's did not.

    taskset -c 0 python benchmarks/reproduce_convolution_copy.py     # with either jax

`perf record -g` of it with 0.12 shows slinky::implement_copy (memmove) and slinky's allocate under
the convolution, a fifth and more of its time; with 0.10.1 neither, and the same dot kernel.
"""

import time

import jax
import jax.numpy as jnp

conv = jax.jit(
    lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
)
CASES = (
    ((128, 28, 28, 1), (9, 9, 1, 32)), ((128, 10, 10, 32), (3, 3, 32, 32)),
    ((32, 32, 32, 4), (3, 3, 4, 32)), ((64, 10, 18, 32), (1, 3, 32, 32)),
)  # fmt: skip
for shape, kernel in CASES:
    x, w = jnp.ones(shape), jnp.ones(kernel)
    flops = 2 * conv(x, w).size * kernel[0] * kernel[1] * kernel[2]
    times = []
    for _ in range(50):
        began = time.process_time()
        jax.block_until_ready(conv(x, w))
        times.append(time.process_time() - began)
    print(f"{jax.__version__} {shape} * {kernel}: {flops / min(times) / 1e9:.0f} Gflop/s")
