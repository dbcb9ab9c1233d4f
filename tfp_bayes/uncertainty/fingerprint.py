"""Digests that tell whether a predictor is still the one that a threshold was chosen for."""

from typing import Any

import numpy as np

from tfp_bayes._plumbing.digest import digest


def fingerprint(predictor: Any) -> str | None:
    """Returns a digest of what a Keras predictor computes with, None for any other predictor."""
    model = getattr(predictor, "model", predictor)
    if not hasattr(model, "weights"):
        return None
    state = getattr(getattr(predictor, "posterior", None), "get_state", None)
    calibration = getattr(model, "output_calibration", None)  # which is none of the weights
    arrays = [w.numpy() for w in model.weights]
    arrays += [] if calibration is None else [np.asarray(v) for v in calibration.arrays.values()]
    return digest([arrays, None if state is None else state()])


def check_unchanged(predictor: Any, fitted: str | None, unknown: str) -> None:
    """Raises ValueError unless a predictor has the fingerprint that it had in `fit`.

    Args:
        predictor: That of today.
        fitted: Its fingerprint in `fit`.
        unknown: What is not known of any other.
    """
    if fitted != fingerprint(predictor):
        raise ValueError(
            "Expected the predictor as it was in `fit`. Received: other weights, for which the "
            f"{unknown} is not known. Hint: fit(x, y) again after training or calibrating."
        )
