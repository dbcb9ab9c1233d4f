"""Reading of the monitored measures from a prediction or from the output of a served model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import entr

from tfp_bayes._plumbing.probabilities import TOLERANCE

MEASURES = ("predictive_entropy", "confidence", "mutual_information")
_UPPER = {"confidence": 1 + TOLERANCE, "mutual_information": np.inf}


def read_measures(prediction: Any) -> dict[str, np.ndarray]:
    """Returns the measures in `MEASURES` that a prediction has, float64 (N,) each; NaN stays NaN.

    Args:
        prediction: A `Prediction`, a mapping of arrays, or probabilities (N, K).

    Raises:
        ValueError: If there is no measure, shapes differ, or finite values are out of range.
    """
    arrays = _as_arrays(prediction)
    found = {name: np.asarray(arrays[name], "float64") for name in MEASURES if name in arrays}
    if "mean" in arrays:
        probs = read_probabilities(prediction)
        found.setdefault("confidence", probs.max(-1))
        found.setdefault("predictive_entropy", entr(probs).sum(-1))
    if not found:
        raise ValueError(
            f"Expected `mean` or some of {', '.join(MEASURES)} in `prediction`. Received: "
            f"{sorted(map(str, arrays))}. Hint: pass the result of predict_uncertainty, or of the "
            "served model, unchanged."
        )
    lengths = {name: values.shape for name, values in found.items()}
    if len(set(lengths.values())) > 1 or any(values.ndim != 1 for values in found.values()):
        raise ValueError(
            f"Expected one number per example, (N,), for each measure. Received: shapes {lengths}. "
            "Hint: average measures of pixels or tokens over an example; those of one image are "
            "not independent, as the tests assume."
        )
    for name, upper in _UPPER.items():
        values = found.get(name, np.zeros(0))
        wrong = values[(values < -TOLERANCE) | (values > upper)]
        if len(wrong):
            raise ValueError(
                f"Expected numbers from 0 to {round(upper, 1):g} for `{name}`. Received: "
                f"{len(wrong)} other values, such as {wrong[0]:g}. Hint: apply a softmax to logits."
            )
    return {name: found[name] for name in MEASURES if name in found}


def read_probabilities(prediction: Any) -> np.ndarray:
    """Returns class probabilities (N, K) as float64; rows that are not finite become all NaN.

    Raises:
        ValueError: If there are no probabilities, or finite rows are not distributions.
    """
    mean = _as_arrays(prediction).get("mean")
    probs = np.asarray(np.nan if mean is None else mean, "float64")
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise ValueError(
            "Expected class probabilities (N, K) with K of at least 2 for `mean`. Received: "
            f"{'none' if mean is None else f'mean of shape {probs.shape}'}. Hint: for pixels or "
            "tokens, pass averages over an example; for regression or independent labels, leave "
            'out "mean" and labels, because only entropies are monitored.'
        )
    finite = np.isfinite(probs).all(-1)
    wrong = finite & ~((probs >= 0).all(-1) & (np.abs(probs.sum(-1) - 1) < TOLERANCE))
    if wrong.any():
        raise ValueError(
            f"Expected probabilities over the last axis for `mean`. Received: {wrong.sum()} of "
            f"{len(probs)} rows that are not, such as {probs[wrong][0][:5]}. Hint: apply a softmax "
            'to logits; leave out "mean" for regression.'
        )
    return np.where(finite[:, None], probs, np.nan)


def _as_arrays(prediction: Any) -> Mapping[str, Any]:
    if isinstance(prediction, Mapping):
        return prediction
    if not hasattr(prediction, "predictive_entropy"):
        return {"mean": prediction}
    names = ["predictive_entropy", "mutual_information"]
    # Real targets have no confidence, and independent labels have no single predicted class.
    if prediction.likelihood == "categorical":
        names.append("mean")
    return {name: getattr(prediction, name) for name in names}
