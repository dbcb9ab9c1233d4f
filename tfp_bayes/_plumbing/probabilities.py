"""Checks that arrays are what they are taken for."""

import numpy as np
from numpy.typing import ArrayLike

# Keras clips probabilities there too. One float32 zero would otherwise make a mean infinite.
SMALLEST_PROBABILITY = 1e-7
TOLERANCE = 0.02  # softmaxes in half precision sum to 1 within some 1e-2


def as_samples(samples: ArrayLike) -> np.ndarray:
    """Returns samples (S, N, K) as float64.

    Raises:
        ValueError: If they are not at least one sample of probabilities over K classes.
    """
    samples = np.asarray(samples, dtype="float64")
    if samples.ndim != 3 or samples.shape[0] == 0 or samples.shape[2] == 0:
        raise ValueError(
            "Expected (S, N, K) with at least one sample and one class for `samples`. "
            f"Received: samples of shape {samples.shape}. Hint: the sample axis comes first."
        )
    _check_distributions(samples, "samples")
    return samples


def as_probabilities(probs: ArrayLike) -> np.ndarray:
    """Returns probabilities (N, K) as float64.

    Raises:
        ValueError: If they are not rows of probabilities over two classes or more.
    """
    probs = np.asarray(probs, dtype="float64")
    if probs.ndim != 2 or probs.size == 0:
        raise ValueError(
            "Expected (N, K) with at least one row for `probs`. "
            f"Received: probs of shape {probs.shape}. Hint: pass the predictive mean."
        )
    if probs.shape[1] == 1:
        raise ValueError(
            "Expected at least two classes for `probs`. "
            f"Received: probs of shape {probs.shape}. "
            "Hint: sigmoids p (N, 1) become two classes by np.hstack([1 - p, p])."
        )
    _check_distributions(probs, "probs")
    return probs


def two_classes(probs: np.ndarray) -> np.ndarray:
    """Returns probabilities (N, 2) of no and yes, float64, of one sigmoid (N, 1)."""
    yes = probs.astype("float64")
    return np.hstack([1 - yes, yes])


def as_labelled(y_true: ArrayLike, probs: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (N,) int64 and probabilities (N, K) float64.

    Raises:
        ValueError: If they do not match, or are not class numbers and probabilities.
    """
    y_true, probs = np.asarray(y_true), as_probabilities(probs)
    if y_true.shape != probs.shape[:1] or y_true.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integer labels of shape {probs.shape[:1]} for `y_true`. "
            f"Received: {y_true.dtype} of shape {y_true.shape}. "
            "Hint: one-hot labels become class numbers by argmax(-1), a column (N, 1) by "
            "squeeze(-1)."
        )
    if not 0 <= y_true.min() <= y_true.max() < probs.shape[1]:
        raise ValueError(
            f"Expected labels in [0, {probs.shape[1]}) for `y_true`. "
            f"Received: from {y_true.min()} to {y_true.max()}. Hint: classes count from 0."
        )
    return y_true.astype("int64"), probs


def log_losses(y_true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Returns negative log likelihoods (N,) in nats of labels (N,) under probabilities (N, K)."""
    chosen = probs[np.arange(len(y_true)), y_true]
    return -np.log(np.maximum(chosen, SMALLEST_PROBABILITY))


def _check_distributions(p: np.ndarray, name: str) -> None:
    # Written so that NaN fails too.
    if not (np.all(p >= 0) and np.all(np.abs(p.sum(-1) - 1) < TOLERANCE)):
        raise ValueError(
            f"Expected probabilities over the last axis for `{name}`. "
            f"Received: values from {p.min():.4g} to {p.max():.4g}, "
            f"sums from {p.sum(-1).min():.4g} to {p.sum(-1).max():.4g}. "
            "Hint: apply a softmax to logits."
        )
