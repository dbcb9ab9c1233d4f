"""Reading the watched measures from a prediction or from the answer of a served model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import entr

from tfp_bayes._plumbing.probabilities import TOLERANCE

MEASURES = ("predictive_entropy", "confidence", "mutual_information")
_UPPER = {"confidence": 1 + TOLERANCE, "mutual_information": np.inf}


def read_measures(prediction: Any) -> dict[str, np.ndarray]:
    """Returns those of `MEASURES` that there are, (N,) float64 each; NaN stays NaN.

    Args:
        prediction: A `Prediction`, a mapping of arrays, or probabilities (N, K).

    Raises:
        ValueError: If there is none, shapes differ, or finite values are not what they should be.
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
            f"{sorted(map(str, arrays))}. Hint: the answer of predict_uncertainty, or of the "
            "served model, as it is."
        )
    lengths = {name: values.shape for name, values in found.items()}
    if len(set(lengths.values())) > 1 or any(values.ndim != 1 for values in found.values()):
        raise ValueError(
            f"Expected one number an example, (N,), for each measure. Received: shapes {lengths}. "
            "Hint: average measures of pixels or tokens over an example; those of one image are "
            "not independent of each other, and the tests would take them so."
        )
    for name, upper in _UPPER.items():
        values = found.get(name, np.zeros(0))
        wrong = values[(values < -TOLERANCE) | (values > upper)]
        if len(wrong):
            raise ValueError(
                f"Expected numbers from 0 to {round(upper, 1):g} for `{name}`. Received: "
                f"{len(wrong)} others, such as {wrong[0]:g}. Hint: apply a softmax to logits."
            )
    return {name: found[name] for name in MEASURES if name in found}


def read_probabilities(prediction: Any) -> np.ndarray:
    """Returns class probabilities (N, K) as float64; rows with a NaN are NaN throughout.

    Raises:
        ValueError: If there are none, or finite rows are not distributions.
    """
    mean = _as_arrays(prediction).get("mean")
    probs = np.asarray(np.nan if mean is None else mean, "float64")
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise ValueError(
            "Expected class probabilities (N, K), K of at least 2, for `mean`. Received: "
            f"{'none' if mean is None else f'mean of shape {probs.shape}'}. Hint: for pixels or "
            "tokens give averages over an example; for a regression, or independent labels, leave "
            'out "mean" and labels: only entropies are watched.'
        )
    finite = np.isfinite(probs).all(-1)
    wrong = finite & ~((probs >= 0).all(-1) & (np.abs(probs.sum(-1) - 1) < TOLERANCE))
    if wrong.any():
        raise ValueError(
            f"Expected probabilities over the last axis for `mean`. Received: {wrong.sum()} of "
            f"{len(probs)} rows that are not, such as {probs[wrong][0][:5]}. Hint: apply a softmax "
            'to logits; of a regression leave out "mean".'
        )
    return np.where(finite[:, None], probs, np.nan)


def _as_arrays(prediction: Any) -> Mapping[str, Any]:
    if isinstance(prediction, Mapping):
        return prediction
    if not hasattr(prediction, "predictive_entropy"):
        return {"mean": prediction}
    names = ["predictive_entropy", "mutual_information"]
    # Real targets have no confidence; that of independent labels is not that of one guess.
    if prediction.likelihood == "categorical":
        names.append("mean")
    return {name: getattr(prediction, name) for name in names}
