"""Checks of single arguments."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np


def check_integers(least: int, **arguments: object) -> None:
    """Raise ValueError unless every argument is an integer of at least `least`."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(
                f"Expected an integer of at least {least} for `{name}`. "
                f"Received: {name}={value!r}. Hint: pass a whole number such as {max(least, 10)}."
            )


def check_function(given: object, name: str, what: str) -> None:
    """Raise ValueError unless an argument is callable or None."""
    if given is not None and not callable(given):
        raise ValueError(
            f"Expected a function {what} for `{name}`. Received: {name}={given!r}. "
            f"Hint: omit `{name}` if you have none."
        )


def check_absent(owner: str, arguments: Mapping, reasons: Mapping[str, str]) -> None:
    """Raise ValueError, with the reason, if an argument is set that its owner does not support."""
    for name, reason in reasons.items():
        if arguments.get(name):
            raise ValueError(
                f"Expected no `{name}` for {owner}. Received: {name}={arguments[name]!r}. "
                f"Hint: {reason}."
            )


def check_unmasked(given: Any, name: str) -> None:
    """Raise ValueError for masked entries, whose values would count like all others."""
    if np.ma.is_masked(given):
        raise ValueError(
            f"Expected an array without masked entries for `{name}`. Received: "
            f"{np.ma.count_masked(given)} of {np.size(given)} are masked. "
            "Hint: leave these rows out of all arrays."
        )


def check_finite_rows(rows: np.ndarray, indices: np.ndarray, name: str = "x") -> np.ndarray:
    """Return the inputs (n, ...), after a check that they are finite.

    Args:
        rows: Inputs.
        indices: Index (n,) of each input in the data set, for the error.
        name: Name of the argument, for the error.
    """
    is_float = rows.dtype.kind == "f" or rows.dtype.name == "bfloat16"  # whose kind is "V"
    if is_float and not np.isfinite(rows).all():
        wrong = indices[~np.isfinite(rows.reshape(len(rows), -1)).all(1)]
        raise ValueError(
            f"Expected finite inputs for `{name}`. Received: NaN or infinity in the examples "
            f"{wrong[:5].tolist()}, {wrong.size} of the {len(rows)} that were read. "
            "Hint: correct or remove them; an ActiveLearner skips those in Query(ignore=...)."
        )
    return rows


def check_labels(y: object, size: int, num_classes: int, name: str = "y") -> np.ndarray:
    """Return labels (N,) or (N, 1) as class indices (N,), after a check of dtype and range.

    Args:
        y: Labels.
        size: Number of examples N.
        num_classes: Number of classes K. Labels must be integers in [0, K).
        name: Name of the argument, for the error.
    """
    labels = np.asarray(y)
    shape = labels.shape
    valid = labels.dtype.kind in "iu" and shape[:1] == (size,) and labels.size == size
    labels = labels.reshape(-1)
    if not valid or (size and not 0 <= labels.min() <= labels.max() < num_classes):
        if y is None:
            received = "none"
        else:
            is_number = labels.size and labels.dtype.kind in "iuf"
            values = f", from {labels.min()} to {labels.max()}" if is_number else ""
            received = f"{labels.dtype} of shape {shape}{values}"
        raise ValueError(
            f"Expected integer labels in [0, {num_classes}), one for each example, for `{name}`. "
            f"Received: {received}. Hint: convert one-hot rows with {name}.argmax(-1)."
        )
    return labels
