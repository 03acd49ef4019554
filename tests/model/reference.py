"""The mathematics of every layer in float64 NumPy, forward and gradient, written from definitions.

Slow and plain on purpose: loops over the places of a window, no jax, nothing from the package.
Images are [B, H, W, C], kernels [kh, kw, I, O]; `padding` is "valid" or "same".
"""

import itertools
import math

import numpy as np
from scipy import special


def _places(x, size, stride, padding, fill=0.0):
    """Padded input, its true region, and the slice of it under each place of the window."""
    out, widths = [], [(0, 0)]
    for n, k, s in zip(x.shape[1:3], size, stride, strict=True):
        out.append(math.ceil(n / s) if padding == "same" else (n - k) // s + 1)
        missing = max((out[-1] - 1) * s + k - n, 0)  # 0 when valid
        widths.append((missing // 2, missing - missing // 2))
    padded = np.pad(x, [*widths, (0, 0)], constant_values=fill)
    true = tuple(slice(low, low + n) for (low, _), n in zip(widths[1:], x.shape[1:3], strict=True))
    slices = [
        (slice(None), *(slice(p, p + s * (m - 1) + 1, s)
                        for p, s, m in zip(place, stride, out, strict=True)))
        for place in itertools.product(*map(range, size))
    ]  # fmt: skip
    return padded, (slice(None), *true), slices


def conv2d(x, w, stride, padding):
    padded, _, slices = _places(x, w.shape[:2], stride, padding)
    return sum(padded[at] @ tap for at, tap in zip(slices, w.reshape(-1, *w.shape[2:])))


def conv2d_grad(x, w, stride, padding, dy):
    """(dx, dw) for the gradient `dy` at the output."""
    padded, true, slices = _places(x, w.shape[:2], stride, padding)
    dx, dw = np.zeros_like(padded), []
    for at, tap in zip(slices, w.reshape(-1, *w.shape[2:])):
        dx[at] += dy @ tap.T
        dw.append(np.einsum("bhwi,bhwo->io", padded[at], dy))
    return dx[true], np.reshape(dw, w.shape)


def _dilated(w, dilation):
    """The kernel with zeros between its rows and columns."""
    rows, columns = ((n - 1) * dilation + 1 for n in w.shape[:2])
    wide = np.zeros((rows, columns, *w.shape[2:]))
    wide[::dilation, ::dilation] = w
    return wide


def grouped_conv2d(x, w, stride, padding, dilation=1, groups=1):
    """Each part of the channels by itself; w [kh, kw, I / groups, O]."""
    inputs, outputs = x.shape[-1] // groups, w.shape[-1] // groups
    return np.concatenate([
        conv2d(x[..., g * inputs : (g + 1) * inputs],
               _dilated(w[..., g * outputs : (g + 1) * outputs], dilation), stride, padding)
        for g in range(groups)
    ], axis=-1)  # fmt: skip


def depthwise_conv2d(x, w, stride, padding, dilation=1):
    """w [kh, kw, C, M]: output c * M + m is channel c with kernel w[..., c, m]."""
    rows, columns, channels, each = w.shape
    own = w.reshape(rows, columns, 1, channels * each)
    return grouped_conv2d(x, own, stride, padding, dilation, channels)


def normalized(x, axes, epsilon, center=True):
    """(x - mean) / sqrt(mean of squares + epsilon) over `axes`."""
    away = x - x.mean(axes, keepdims=True) if center else x
    return away / np.sqrt((away**2).mean(axes, keepdims=True) + epsilon)


def group_norm(x, groups, epsilon):
    apart = x.reshape(*x.shape[:-1], groups, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    return normalized(apart, axes, epsilon).reshape(x.shape)


def squeeze_excitation(x, w1, b1, w2, b2):
    between = np.maximum(x.mean((1, 2)) @ w1 + b1, 0)
    return x / (1 + np.exp(-(between @ w2 + b2)))[:, None, None]


def efficient_channel_attention(x, kernel):
    mean, half = x.mean((1, 2)), len(kernel) // 2
    gates = np.array([np.correlate(np.pad(row, half), kernel, "valid") for row in mean])
    return x / (1 + np.exp(-gates))[:, None, None]


def blur_pool2d(x, size, stride):
    row = np.ones(1)
    for _ in range(size - 1):
        row = np.convolve(row, [0.5, 0.5])
    before, after = (size - 1) // 2, size // 2
    wide = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), mode="reflect")
    kernel = np.repeat(np.outer(row, row)[..., None, None], x.shape[-1], axis=2)
    return depthwise_conv2d(wide, kernel, (stride, stride), "valid")


def max_pool2d(x, size, stride, padding):
    padded, _, slices = _places(x, size, stride, padding, -np.inf)
    return np.max([padded[at] for at in slices], axis=0)


def max_pool2d_grad(x, size, stride, padding, dy):
    """The first largest value of a window, in row order, receives its gradient."""
    padded, true, slices = _places(x, size, stride, padding, -np.inf)
    first = np.argmax([padded[at] for at in slices], axis=0)
    dx = np.zeros_like(padded)
    for place, at in enumerate(slices):
        dx[at] += np.where(first == place, dy, 0.0)
    return dx[true]


def _pixels(x, size, stride, padding):
    ones, _, slices = _places(np.ones_like(x), size, stride, padding)
    return sum(ones[at] for at in slices)


def avg_pool2d(x, size, stride, padding):
    padded, _, slices = _places(x, size, stride, padding)
    return sum(padded[at] for at in slices) / _pixels(x, size, stride, padding)


def avg_pool2d_grad(x, size, stride, padding, dy):
    padded, true, slices = _places(x, size, stride, padding)
    dx, share = np.zeros_like(padded), dy / _pixels(x, size, stride, padding)
    for at in slices:
        dx[at] += share
    return dx[true]


def batch_norm_train(x, scale, bias, epsilon, mask=None):
    """(y, mean, biased variance) with statistics over the rows where `mask` is true."""
    true = x if mask is None else x[mask]
    axes = tuple(range(x.ndim - 1))
    mean, variance = true.mean(axes), true.var(axes)
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias, mean, variance


def batch_norm_train_grad(x, scale, epsilon, dy):
    """(dx, dscale, dbias): mean and variance depend on x too."""
    axes = tuple(range(x.ndim - 1))
    root = np.sqrt(x.var(axes) + epsilon)
    unit = (x - x.mean(axes)) / root
    dx = scale / root * (dy - dy.mean(axes) - unit * (dy * unit).mean(axes))
    return dx, (dy * unit).sum(axes), dy.sum(axes)


def batch_norm_inference(x, scale, bias, mean, variance, epsilon):
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias


def dense(x, w, bias):
    return x @ w + bias


def dense_grad(x, w, dy):
    """(dx, dw, dbias)."""
    return dy @ w.T, x.T @ dy, dy.sum(0)


SELU = 1.0507009873554805, 1.6732632423543772  # scale, alpha (Klambauer et al. 2017)
ACTIVATIONS = {
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.3 * x),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "selu": lambda x: SELU[0] * np.where(x > 0, x, SELU[1] * np.expm1(np.minimum(x, 0.0))),
    "gelu": lambda x: x * 0.5 * (1.0 + special.erf(x / math.sqrt(2.0))),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "mish": lambda x: x * np.tanh(np.logaddexp(0.0, x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0.0, x),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
}


def cross_entropy(logits, label, smoothing=0.0):
    """(loss [B], gradient of its sum [B, K]) against (1 - s) * one_hot + s / K."""
    classes = logits.shape[-1]
    target = (1.0 - smoothing) * np.eye(classes)[label] + smoothing / classes
    log_p = logits - special.logsumexp(logits, axis=-1, keepdims=True)
    return -(target * log_p).sum(-1), np.exp(log_p) - target
