"""Acquisition functions: how much a label is worth, one score for each candidate.

Each takes a `Prediction` of N candidates and returns scores (N,); the higher, the sooner the
example is labelled. Any function of that form will do; registered ones can be named by a string.
"""

from collections.abc import Callable

import keras
import numpy as np

from tfp_bayes.inference import Prediction

Acquisition = Callable[[Prediction], np.ndarray]

_PACKAGE = "tfp_bayes"


@keras.saving.register_keras_serializable(_PACKAGE)
def bald(prediction: Prediction) -> np.ndarray:
    """Scores by mutual information between label and weights, in nats.

    High where the sampled functions are each sure but disagree: a label settles the argument.
    Blind to noise that no label can remove.

    Args:
        prediction: Of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Houlsby et al. 2011, equation 2, arXiv:1112.5745; Gal et al. 2017, equation 8.
    """
    return prediction.mutual_information


@keras.saving.register_keras_serializable(_PACKAGE)
def max_entropy(prediction: Prediction) -> np.ndarray:
    """Scores by predictive entropy, in nats: total uncertainty, noise included.

    Args:
        prediction: Of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Shannon 1948; Gal et al. 2017, section 4, arXiv:1703.02910.
    """
    return prediction.predictive_entropy


@keras.saving.register_keras_serializable(_PACKAGE)
def variation_ratios(prediction: Prediction) -> np.ndarray:
    """Scores by 1 - max_k p_k: the probability that the best guess is wrong.

    Args:
        prediction: Of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Gal et al. 2017, equation 9, arXiv:1703.02910.
    """
    return prediction.variation_ratio


@keras.saving.register_keras_serializable(_PACKAGE)
def mean_std(prediction: Prediction) -> np.ndarray:
    """Scores by the standard deviation of the sampled probabilities, averaged over classes.

    Args:
        prediction: Of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Kampffmeyer et al. 2016; Gal et al. 2017, equation 10, arXiv:1703.02910.
    """
    return prediction.mean_std


@keras.saving.register_keras_serializable(_PACKAGE)
def predictive_variance(prediction: Prediction) -> np.ndarray:
    """Scores by the total variance of the target, summed over classes or targets.

    The trace of the predictive covariance. Its log determinant, which counts correlated outputs
    once, is what `max_entropy` scores by for normal predictions, and `bald` the part of that
    which labels remove.

    Args:
        prediction: Of N candidates.

    Returns:
        Scores (N,).

    Reference:
        MacKay 1992, "Information-Based Objective Functions for Active Data Selection", section 4.
    """
    return (prediction.variance + prediction.aleatoric_variance).sum(-1)


@keras.saving.register_keras_serializable(_PACKAGE)
def random(prediction: Prediction) -> np.ndarray:
    """Scores every candidate 0, so that the selector's tie-break picks at random: the baseline.

    Args:
        prediction: Of N candidates.

    Returns:
        Scores (N,), all 0.
    """
    return np.zeros(len(prediction.mean))


BUILT_IN = (bald, variation_ratios, max_entropy, mean_std, predictive_variance, random)


def get(acquisition: str | dict | Acquisition) -> Acquisition:
    """Returns an acquisition function from its name, its serialized form or itself.

    Args:
        acquisition: "bald", "variation_ratios", "max_entropy", "mean_std", "predictive_variance",
            "random", the name of a function registered with Keras ("package>name"), the
            dictionary made by `keras.saving.serialize_keras_object`, or a function.

    Raises:
        ValueError: If nothing of that name is registered.

    Example:

    >>> get("bald") is bald
    True
    """
    if callable(acquisition):
        return acquisition
    if isinstance(acquisition, dict):
        return keras.saving.deserialize_keras_object(acquisition)
    names = {function.__name__: function for function in BUILT_IN}
    found = names.get(acquisition) or keras.saving.get_registered_object(str(acquisition))
    if found is None:
        raise ValueError(
            f"Expected one of {sorted(names)}, a registered name or a function for "
            f"`acquisition`. Received: acquisition={acquisition!r}. "
            "Hint: register your own with keras.saving.register_keras_serializable."
        )
    return found
