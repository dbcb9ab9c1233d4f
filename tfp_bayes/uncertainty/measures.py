"""Measures of uncertainty from posterior samples (S, N, K) of class probabilities.

`Predictor` streams the same measures without storing samples; these functions take stored samples.
Everything is computed in float64, entropies are in nats, and 0 log 0 = 0.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr

from tfp_bayes._plumbing.probabilities import as_samples


def predictive_mean(samples: ArrayLike) -> np.ndarray:
    """Mean of the samples: the posterior predictive distribution.

    Use it as the prediction, for example in `nll`, `brier` and the other metrics.

    Args:
        samples: (S, N, K) probabilities.

    Returns:
        (N, K) float64.

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Reference:
        Gal and Ghahramani 2016, equation 6, arXiv:1506.02142.

    Example:

    >>> predictive_mean([[[1.0, 0.0]], [[0.5, 0.5]]])
    array([[0.75, 0.25]])
    """
    return as_samples(samples).mean(axis=0)


def predictive_entropy(samples: ArrayLike) -> np.ndarray:
    """Entropy of the mean, H[mean_s p_s]: total uncertainty.

    Use it to find examples that the model is unsure of, for lack of data or because of noise.

    Args:
        samples: (S, N, K) probabilities.

    Returns:
        (N,) float64, nats, between 0 and log K.

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Reference:
        Gal et al. 2017, section 4, arXiv:1703.02910.

    Example:

    >>> predictive_entropy([[[1.0, 0.0]], [[0.0, 1.0]]]).round(4)
    array([0.6931])
    """
    return entr(predictive_mean(samples)).sum(axis=-1)


def expected_entropy(samples: ArrayLike) -> np.ndarray:
    """Mean of the samples' entropies, mean_s H[p_s]: aleatoric uncertainty.

    Use it to find label noise that more training data cannot reduce.

    Args:
        samples: (S, N, K) probabilities.

    Returns:
        (N,) float64, nats.

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Reference:
        Houlsby et al. 2011, equation 2, second term, arXiv:1112.5745.

    Example:

    >>> expected_entropy([[[1.0, 0.0]], [[0.0, 1.0]]])
    array([0.])
    """
    return entr(as_samples(samples)).sum(axis=-1).mean(axis=0)


def mutual_information(samples: ArrayLike) -> np.ndarray:
    """Mutual information of label and weights: epistemic uncertainty, the BALD score.

    Use it to find inputs whose label would be most informative about the weights.

    Args:
        samples: (S, N, K) probabilities.

    Returns:
        (N,) float64, nats, never below 0: H[mean_s p_s] - mean_s H[p_s].

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Reference:
        Houlsby et al. 2011, equation 2, arXiv:1112.5745.

    Example:

    >>> mutual_information([[[1.0, 0.0]], [[0.0, 1.0]]]).round(4)
    array([0.6931])
    """
    return np.maximum(predictive_entropy(samples) - expected_entropy(samples), 0)


def variation_ratio(samples: ArrayLike, votes: bool = False) -> np.ndarray:
    """One minus the probability of the most probable class.

    Use it as the probability that the predicted class is wrong, including label noise.

    Args:
        samples: (S, N, K) probabilities.
        votes: False uses the mean, 1 - max_k mean_s p_sk. True counts each sample's most probable
            class as one vote, 1 - max_k votes_k / S, which takes few values and therefore often
            ties. A sample with several most probable classes splits its vote among them.

    Returns:
        (N,) float64 in [0, 1 - 1/K].

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Reference:
        Gal et al. 2017, equation 9, arXiv:1703.02910; with votes: Gal 2016, equation 3.20.

    Example:

    >>> samples = [[[0.9, 0.1]], [[0.8, 0.2]], [[0.4, 0.6]]]
    >>> variation_ratio(samples).round(4), variation_ratio(samples, votes=True).round(4)
    (array([0.3]), array([0.3333]))
    """
    p = as_samples(samples)
    if votes:
        best = p == p.max(axis=-1, keepdims=True)  # (S, N, K)
        p = best / best.sum(axis=-1, keepdims=True)
    return 1 - p.mean(axis=0).max(axis=-1)


def mean_std(samples: ArrayLike) -> np.ndarray:
    """Standard deviation over samples, averaged over classes: (1/K) sum_k std_s(p_sk).

    Use it to express disagreement as a difference of probabilities, not in nats.

    Args:
        samples: (S, N, K) probabilities.

    Returns:
        (N,) float64.

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Reference:
        Kampffmeyer et al. 2016; Gal et al. 2017, equation 10, arXiv:1703.02910.

    Example:

    >>> mean_std([[[1.0, 0.0]], [[0.0, 1.0]]])
    array([0.5])
    """
    return np.sqrt(epistemic_variance(samples)).mean(axis=-1)


def variance(samples: ArrayLike) -> np.ndarray:
    """Variance of the one-hot label under the predictive mean: total uncertainty.

    Use it as the variance of the target. It is the sum of `epistemic_variance` and
    `aleatoric_variance`.

    Args:
        samples: (S, N, K) probabilities.

    Returns:
        (N, K) float64, m (1 - m) with m the predictive mean.

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Example:

    >>> variance([[[1.0, 0.0]], [[0.5, 0.5]]])
    array([[0.1875, 0.1875]])
    """
    mean = predictive_mean(samples)
    return mean * (1 - mean)


def epistemic_variance(samples: ArrayLike) -> np.ndarray:
    """Variance of each class probability over samples (divided by S, not S - 1).

    Use it to see which classes the samples disagree on.

    Args:
        samples: (S, N, K) probabilities.

    Returns:
        (N, K) float64.

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Reference:
        Gal et al. 2017, arXiv:1703.02910: the square of the sigma in the mean standard deviation.

    Example:

    >>> epistemic_variance([[[1.0, 0.0]], [[0.0, 1.0]]])
    array([[0.25, 0.25]])
    """
    return as_samples(samples).var(axis=0)


def aleatoric_variance(samples: ArrayLike) -> np.ndarray:
    """Variance of the one-hot label within a sample, averaged over samples.

    Use it to see the part of `variance` that is label noise. `epistemic_variance`, the variance
    between samples, is the other part.

    Args:
        samples: (S, N, K) probabilities.

    Returns:
        (N, K) float64.

    Raises:
        ValueError: If `samples` are not probabilities of that shape.

    Reference:
        Kwon et al. 2020, "Uncertainty quantification using Bayesian neural networks in
        classification", equation 4; the law of total variance.

    Example:

    >>> aleatoric_variance([[[1.0, 0.0]], [[0.5, 0.5]]])
    array([[0.125, 0.125]])
    """
    p = as_samples(samples)
    return (p * (1 - p)).mean(axis=0)
