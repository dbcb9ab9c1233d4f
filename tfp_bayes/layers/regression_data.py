"""Features and targets as users give them: checked, in float64, some rows at a time."""

from collections.abc import Iterable, Iterator

import numpy as np

_ROWS_AT_A_TIME = 8192


def batches(features: np.ndarray | Iterable, targets: np.ndarray | None) -> Iterator[tuple]:
    """Yields pairs of features and targets, of arrays or out of an iterable of pairs.

    Raises:
        ValueError: If there are not as many features as targets.
    """
    if targets is None:
        yield from features
        return
    features, targets = np.asarray(features), np.asarray(targets)
    if len(features) != len(targets):
        raise ValueError(
            f"Expected as many `targets` as `features`. Received: features of shape "
            f"{features.shape}, targets of shape {targets.shape}. Hint: rows are examples."
        )
    for i in range(0, max(len(features), 1), _ROWS_AT_A_TIME):
        yield features[i : i + _ROWS_AT_A_TIME], targets[i : i + _ROWS_AT_A_TIME]


def check_features(features: np.ndarray, width: int | None, owner: str) -> np.ndarray:
    """Returns finite features (N, width) in float64.

    Raises:
        ValueError: If they are not that.
    """
    phi = np.asarray(features, "float64")
    if phi.ndim != 2 or phi.shape[1] != width or not np.isfinite(phi).all():
        raise ValueError(
            f"Expected finite `features` of shape (N, {width or 'F'}) for {owner!r}. "
            f"Received: features of shape {phi.shape}, {_num_not_finite(phi)} values not finite. "
            "Hint: rows are examples."
        )
    return phi


def check_targets(targets: np.ndarray, units: int, owner: str) -> np.ndarray:
    """Returns finite targets (N, units) in float64; (N,) will do for one unit.

    Raises:
        ValueError: If they are not that.
    """
    y = np.asarray(targets, "float64")
    if y.ndim == 1 and units == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[1] != units or not np.isfinite(y).all():
        raise ValueError(
            f"Expected finite `targets` of shape (N, {units}) for {owner!r}. "
            f"Received: targets of shape {y.shape}, {_num_not_finite(y)} values not finite. "
            "Hint: classes as targets need keras.utils.to_categorical."
        )
    return y


def _num_not_finite(values: np.ndarray) -> int:
    return int((~np.isfinite(values)).sum())
