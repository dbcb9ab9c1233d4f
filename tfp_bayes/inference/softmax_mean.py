"""The mean of a softmax over a normal distribution of its logits."""

import numpy as np
from scipy.special import ndtri

NUM_POINTS = 512  # up to 64 classes; fewer of more, down to 64, because time is quadratic in them


def softmax_mean(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Integrates a softmax over normal logits, by the same points at every call.

    The integral is over differences to the last logit: what all logits of a row have in common
    changes no probability, however uncertain it is. (The probit approximation of each logit by
    itself counts it, and is far too unsure where the training data leave it open.)

    Args:
        mean: (N, K) in nats.
        covariance: (N, K, K).

    Returns:
        Probabilities (N, K).

    Reference:
        McKay, Beckman and Conover 1979, Technometrics 21(2), section 2.3: Latin hypercube
        sampling, which for two classes is the midpoint rule.
    """
    mean = mean[:, :-1] - mean[:, -1:]
    last = covariance[:, :-1, -1]
    covariance = (
        covariance[:, :-1, :-1] - last[:, :, None] - last[:, None] + covariance[:, -1:, -1:]
    )
    size = mean.shape[1]
    # Rounding may leave eigenvalues below zero by this much.
    jitter = 1e-10 * np.trace(covariance, axis1=1, axis2=2) + 1e-30
    root = np.linalg.cholesky(covariance + jitter[:, None, None] * np.eye(size))
    num_points = int(np.clip(64 * NUM_POINTS // (size + 1), 64, NUM_POINTS))
    strata = np.tile(np.arange(num_points) + 0.5, (size, 1)) / num_points
    points = ndtri(np.random.default_rng(0).permuted(strata, axis=1))  # (K - 1, points)
    logits = mean[:, :, None] + root @ points  # that of the last class is 0
    top = np.maximum(logits.max(axis=1), 0)
    odds, last = np.exp(logits - top[:, None]), np.exp(-top)
    total = odds.sum(axis=1) + last
    first = (odds / total[:, None]).mean(axis=2)
    return np.concatenate([first, (last / total).mean(axis=1, keepdims=True)], axis=1)
