"""Acquisition functions: a score for each candidate that says how useful its label would be.

An acquisition function takes a `Prediction` of N candidates and returns scores (N,). Examples with
higher scores are labeled first. Any function with this signature works, and a function that is
registered with Keras can be named by a string. A function with a second argument `targets`, such as
`epig`, also receives the `Prediction` of some examples of the pool; both predictions then include
their samples.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import entr

from tfp_bayes.active.built_in import ACQUISITIONS

if TYPE_CHECKING:
    from tfp_bayes.prediction import Prediction

Acquisition = Callable[..., np.ndarray]

_ROWS_AT_A_TIME = 64  # bounds the memory of joint distributions


def _only_for(*likelihoods: str, hint: str) -> Callable[[Acquisition], Acquisition]:
    """Restrict an acquisition function to the likelihoods for which it has a meaning.

    Args:
        *likelihoods: Names of those likelihoods.
        hint: Hint of the error that other likelihoods raise.
    """

    def decorate(function: Acquisition) -> Acquisition:
        @functools.wraps(function)
        def checked(prediction: Prediction, *args: Any, **kwargs: Any) -> np.ndarray:
            check_likelihood(checked, prediction.likelihood)
            return function(prediction, *args, **kwargs)

        vars(checked).update(likelihoods=likelihoods, hint=hint)
        return checked

    return decorate


def check_likelihood(acquisition: Acquisition, likelihood: str) -> None:
    """Raise ValueError if an acquisition function has no meaning for a likelihood."""
    known = getattr(acquisition, "likelihoods", (likelihood,))
    if likelihood not in known:
        raise ValueError(
            f"Expected predictions of likelihood {known} for acquisition="
            f"{acquisition.__name__!r}. Received: likelihood={likelihood!r}. "
            f"Hint: {getattr(acquisition, 'hint', 'use another acquisition')}."
        )


def bald(prediction: Prediction) -> np.ndarray:
    """Score by the mutual information between label and weights, in nats.

    The score is high where each sampled function is confident but the functions disagree, so that a
    label rules some of them out. Noise that no label can remove does not raise it.

    Args:
        prediction: Prediction of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Houlsby et al. 2011, equation 2, arXiv:1112.5745; Gal et al. 2017, equation 8.
    """
    return prediction.mutual_information


def max_entropy(prediction: Prediction) -> np.ndarray:
    """Score by the predictive entropy, in nats: the total uncertainty, including label noise.

    Args:
        prediction: Prediction of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Shannon 1948; Gal et al. 2017, section 4, arXiv:1703.02910.
    """
    return prediction.predictive_entropy


@_only_for("categorical", "bernoulli", hint="'predictive_variance' or 'bald' suit real targets")
def variation_ratios(prediction: Prediction) -> np.ndarray:
    """Score by 1 - max_k p_k: the predicted probability that the most likely class is wrong.

    Args:
        prediction: Prediction of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Gal et al. 2017, equation 9, arXiv:1703.02910.
    """
    return prediction.variation_ratio


def mean_std(prediction: Prediction) -> np.ndarray:
    """Score by the standard deviation of the sampled probabilities, averaged over classes.

    Args:
        prediction: Prediction of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Kampffmeyer et al. 2016; Gal et al. 2017, equation 10, arXiv:1703.02910.
    """
    return prediction.mean_std


def predictive_variance(prediction: Prediction) -> np.ndarray:
    """Score by the total variance of the target, summed over classes or targets.

    This is the trace of the predictive covariance. For normal predictions, `max_entropy` uses the
    log determinant of that covariance instead, which counts correlated outputs once, and `bald`
    uses the part of that entropy which labels remove.

    Args:
        prediction: Prediction of N candidates.

    Returns:
        Scores (N,).

    Reference:
        MacKay 1992, "Information-Based Objective Functions for Active Data Selection", section 4.
    """
    return prediction.variance.sum(-1)


@_only_for(
    "categorical", hint="'variation_ratios' suits a sigmoid, 'predictive_variance' real targets"
)
def margin(prediction: Prediction) -> np.ndarray:
    """Score by p_2 - p_1, the two largest probabilities: at most 0, and 0 where they are equal.

    Args:
        prediction: Prediction of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Scheffer et al. 2001, "Active Hidden Markov Models for Information Extraction".
    """
    ordered = np.sort(prediction.mean, axis=-1)
    return ordered[:, -2] - ordered[:, -1]


@_only_for(
    "categorical", hint="'variation_ratios' suits a sigmoid, 'predictive_variance' real targets"
)
def least_confident(prediction: Prediction) -> np.ndarray:
    """Score by 1 - max_k p_k: the more common name of `variation_ratios`.

    Args:
        prediction: Prediction of N candidates.

    Returns:
        Scores (N,).

    Reference:
        Lewis and Gale 1994, "A Sequential Algorithm for Training Text Classifiers".
    """
    return 1 - prediction.mean.max(-1)


@_only_for("categorical", hint="'bald' suits a sigmoid and real targets")
def epig(prediction: Prediction, targets: Prediction) -> np.ndarray:
    """Score by the information that a label gives about the labels of other examples, in nats.

    Unlike `bald`, this ignores uncertainty that does not affect the predictions of the targets. The
    score never exceeds that of `bald`. It is that of the samples, which are never calibrated.

    Args:
        prediction: Prediction of N candidates, with samples.
        targets: Prediction of T examples like those that the model will be used on, with samples
            drawn with the same seed, so that sample s is the same function as in `prediction`.

    Returns:
        Scores (N,), averaged over targets.

    Raises:
        ValueError: If a prediction has no samples, or the numbers of samples differ.

    Reference:
        Bickford Smith et al. 2023, equation 5, arXiv:2304.08151.
    """
    at, of = prediction.samples, targets.samples
    if at is None or of is None or len(at) != len(of):
        raise ValueError(
            "Expected as many samples of the same functions for `prediction` as for `targets`. "
            f"Received: shapes {None if at is None else at.shape} and "
            f"{None if of is None else of.shape}. "
            "Hint: call predict_uncertainty(..., seed=0, return_samples=True) for both."
        )
    num_samples, _, num_classes = at.shape
    # Means of the samples, because those of a calibrated model do not fit the joint distributions.
    mean, mean_of = (each.mean(0, dtype="float64") for each in (at, of))
    own = entr(mean_of).sum(-1).mean()  # H(y*), averaged over targets
    flat = of.reshape(num_samples, -1)  # (S, T K)
    scores = []
    for start in range(0, at.shape[1], _ROWS_AT_A_TIME):
        rows = at[:, start : start + _ROWS_AT_A_TIME].reshape(num_samples, -1)  # (S, B K)
        joint = (rows.T @ flat).astype("float64") / num_samples  # (B K, T K)
        together = entr(joint).reshape(-1, num_classes, flat.shape[1]).sum((1, 2))
        scores.append(own - together / of.shape[1])
    return np.concatenate(scores) + entr(mean).sum(-1)


def random(prediction: Prediction) -> np.ndarray:
    """Score every candidate 0, so the selector breaks ties at random: the random baseline.

    Args:
        prediction: Prediction of N candidates.

    Returns:
        Scores (N,), all 0.
    """
    return np.zeros(len(prediction.mean))


def get(acquisition: str | dict | Acquisition) -> Acquisition:
    """Return the acquisition function for a name, a serialized function, or a function.

    Args:
        acquisition: "bald", "epig", "variation_ratios", "max_entropy", "mean_std", "margin",
            "least_confident", "predictive_variance", "random", the name of a function that is
            registered with Keras ("package>name"), the dictionary that
            `keras.saving.serialize_keras_object` returns, or a function.

    Raises:
        ValueError: If no function with that name is registered.

    Example:

    >>> get("bald") is bald
    True
    """
    if callable(acquisition):
        return acquisition
    name: object = acquisition
    if isinstance(acquisition, dict) and acquisition.get("class_name") == "function":
        name = acquisition.get("config")  # the format of keras.saving.serialize_keras_object
    if isinstance(name, str) and name in ACQUISITIONS:
        return ACQUISITIONS[name]
    found = None
    if "keras" in sys.modules:  # before Keras is imported, nothing can be registered with it
        saving = sys.modules["keras"].saving
        if isinstance(acquisition, dict):
            acquisition = acquisition.get("registered_name", acquisition)
        found = saving.get_registered_object(str(acquisition))
    if not callable(found):
        raise ValueError(
            f"Expected one of {sorted(ACQUISITIONS)}, a registered name or a function for "
            f"`acquisition`. Received: acquisition={acquisition!r}. "
            "Hint: register your own with keras.saving.register_keras_serializable."
        )
    return found
