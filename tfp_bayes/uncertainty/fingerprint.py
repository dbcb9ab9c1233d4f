"""Digests of predictors, which detect that a model changed after a threshold was fitted to it."""

from typing import Any

import numpy as np

from tfp_bayes._plumbing.digest import digest


def fingerprint(predictor: Any) -> str | None:
    """Returns a digest of all state that a Keras predictor uses; None for other predictors."""
    model = getattr(predictor, "model", predictor)
    if not hasattr(model, "weights"):
        return None
    state = getattr(getattr(predictor, "posterior", None), "get_state", None)
    calibration = getattr(model, "output_calibration", None)  # not among the weights
    arrays = [w.numpy() for w in model.weights]
    arrays += [] if calibration is None else [np.asarray(v) for v in calibration.arrays.values()]
    return digest([arrays, None if state is None else state()])


def check_unchanged(predictor: Any, fitted: str | None, unknown: str) -> None:
    """Raises ValueError unless a predictor has the same fingerprint as in `fit`.

    Args:
        predictor: The current predictor.
        fitted: The fingerprint from `fit`.
        unknown: Name of the quantity that is unknown for a changed predictor.
    """
    if fitted != fingerprint(predictor):
        raise ValueError(
            "Expected the predictor as it was in `fit`. Received: other weights, for which the "
            f"{unknown} is not known. Hint: call fit(x, y) again after training or calibrating."
        )
