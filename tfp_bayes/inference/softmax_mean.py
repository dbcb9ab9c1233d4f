"""The mean of a softmax whose logits are normally distributed."""

import numpy as np
from scipy.special import ndtri

# For up to 64 classes. More classes get fewer points, at least 64, because the time for each point
# is quadratic in the number of classes.
NUM_POINTS = 512


def softmax_mean(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Integrate a softmax over normally distributed logits, with the same points in every call.

    The integral is over differences from the last logit, because a shift that all logits of a row
    share changes no probability, however uncertain that shift is. (The probit approximation treats
    each logit separately and does count the shift, so it is far too uncertain where the training
    data do not determine it.)

    Args:
        mean: Means of the logits (N, K), in nats.
        covariance: Covariances of the logits of each row (N, K, K).

    Returns:
        Probabilities (N, K).

    Reference:
        McKay, Beckman and Conover 1979, Technometrics 21(2), section 2.3: Latin hypercube
        sampling. For two classes it is the midpoint rule.
    """
    mean = mean[:, :-1] - mean[:, -1:]
    last = covariance[:, :-1, -1]
    covariance = (
        covariance[:, :-1, :-1] - last[:, :, None] - last[:, None] + covariance[:, -1:, -1:]
    )
    size = mean.shape[1]
    # Rounding errors may push eigenvalues below zero by this much.
    jitter = 1e-10 * np.trace(covariance, axis1=1, axis2=2) + 1e-30
    root = np.linalg.cholesky(covariance + jitter[:, None, None] * np.eye(size))
    num_points = int(np.clip(64 * NUM_POINTS // (size + 1), 64, NUM_POINTS))
    strata = np.tile(np.arange(num_points) + 0.5, (size, 1)) / num_points
    points = ndtri(np.random.default_rng(0).permuted(strata, axis=1))  # (K - 1, points)
    logits = mean[:, :, None] + root @ points  # the logit of the last class is 0
    top = np.maximum(logits.max(axis=1), 0)
    odds, last = np.exp(logits - top[:, None]), np.exp(-top)
    total = odds.sum(axis=1) + last
    first = (odds / total[:, None]).mean(axis=2)
    return np.concatenate([first, (last / total).mean(axis=1, keepdims=True)], axis=1)
