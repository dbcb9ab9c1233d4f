"""Checks and conversions of arrays of probabilities, samples, labels and weights."""

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_unmasked

# Keras clips probabilities at this value too. Otherwise one float32 zero makes a mean infinite.
SMALLEST_PROBABILITY = 1e-7
TOLERANCE = 0.02  # a half-precision softmax sums to 1 within about 1e-2


def as_samples(samples: ArrayLike) -> np.ndarray:
    """Return samples (S, N, K) as float64.

    Raises:
        ValueError: If `samples` is not an array of at least one sample of probabilities over K
            classes.
    """
    check_unmasked(samples, "samples")
    samples = np.asarray(samples, dtype="float64")
    if samples.ndim != 3 or samples.shape[0] == 0 or samples.shape[2] == 0:
        raise ValueError(
            "Expected (S, N, K) with at least one sample and one class for `samples`. "
            f"Received: samples of shape {samples.shape}. Hint: the sample axis comes first."
        )
    _check_distributions(samples, "samples")
    return samples


def as_probabilities(probs: ArrayLike, num_classes: int | None = None) -> np.ndarray:
    """Return probabilities (N, K) as float64.

    Args:
        probs: Probabilities.
        num_classes: Number of classes K. None allows any.

    Raises:
        ValueError: If `probs` does not have rows of probabilities over at least two classes, or
            over K classes.
    """
    check_unmasked(probs, "probs")
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
            "Hint: turn sigmoids p (N, 1) into two classes with np.hstack([1 - p, p])."
        )
    if num_classes is not None and probs.shape[1] != num_classes:
        raise ValueError(
            f"Expected {num_classes} classes, as in the held-out examples, for `probs`. "
            f"Received: probs of shape {probs.shape}. Hint: fit another calibration to them."
        )
    _check_distributions(probs, "probs")
    return probs


def two_classes(probs: np.ndarray) -> np.ndarray:
    """Return probabilities (N, 2) of no and yes, float64, given sigmoids (N, 1)."""
    yes = probs.astype("float64")
    return np.hstack([1 - yes, yes])


def as_labelled(y_true: ArrayLike, probs: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) int64 and probabilities (N, K) float64.

    Raises:
        ValueError: If the arrays differ in length, or are not class indices and probabilities.
    """
    check_unmasked(y_true, "y_true")
    y_true, probs = np.asarray(y_true), as_probabilities(probs)
    if y_true.shape != probs.shape[:1] or y_true.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integer labels of shape {probs.shape[:1]} for `y_true`. "
            f"Received: {y_true.dtype} of shape {y_true.shape}. "
            "Hint: convert one-hot labels with argmax(-1), and a column (N, 1) with squeeze(-1)."
        )
    if not 0 <= y_true.min() <= y_true.max() < probs.shape[1]:
        raise ValueError(
            f"Expected labels in [0, {probs.shape[1]}) for `y_true`. "
            f"Received: from {y_true.min()} to {y_true.max()}. Hint: number the classes from 0."
        )
    return y_true.astype("int64"), probs


def as_weights(sample_weight: ArrayLike | None, num_rows: int) -> np.ndarray:
    """Return weights (N,) float64, scaled to mean 1. None means equal weights.

    Raises:
        ValueError: If there is not one finite weight of at least 0 per row, or all weights are 0.
    """
    if sample_weight is None:
        return np.ones(num_rows)
    weights = np.asarray(sample_weight, dtype="float64")
    valid = weights.shape == (num_rows,) and np.all((weights >= 0) & (weights < np.inf))
    if not valid or weights.sum() == 0:
        raise ValueError(
            f"Expected {num_rows} numbers of at least 0, not all 0, for `sample_weight`. "
            f"Received: {weights.dtype} of shape {weights.shape}"
            + (f", from {weights.min():.4g} to {weights.max():.4g}" if weights.size else "")
            + ". Hint: pass one weight for each row of the probabilities."
        )
    return weights / weights.mean()


def check_every_class(y_true: np.ndarray, num_classes: int, what: str) -> None:
    """Raise ValueError unless every class occurs in the labels (N,)."""
    missing = np.setdiff1d(np.arange(num_classes), y_true)
    if len(missing):
        raise ValueError(
            f"Expected labels of each of the {num_classes} classes for {what}. Received: no "
            f"example of the classes {missing[:5].tolist()}. Hint: use a temperature, which is "
            "one number for all classes and works without them, or hold out more examples."
        )


def log_losses(y_true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return negative log likelihoods (N,) in nats of labels (N,), given probabilities (N, K)."""
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
