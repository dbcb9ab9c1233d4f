"""Checks of single arguments."""

from collections.abc import Mapping
from numbers import Integral

import numpy as np


def check_integers(least: int, **arguments: object) -> None:
    """Raises ValueError unless every argument is an integer of at least `least`."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(
                f"Expected an integer of at least {least} for `{name}`. "
                f"Received: {name}={value!r}. Hint: a whole number, such as {max(least, 10)}."
            )


def check_function(given: object, name: str, what: str) -> None:
    """Raises ValueError unless an argument can be called, or there is none."""
    if given is not None and not callable(given):
        raise ValueError(
            f"Expected a function {what} for `{name}`. Received: {name}={given!r}. "
            f"Hint: leave out `{name}` if there is none."
        )


def check_absent(owner: str, arguments: Mapping, reasons: Mapping[str, str]) -> None:
    """Raises ValueError if an argument is given that its owner cannot honor, with the reason."""
    for name, reason in reasons.items():
        if arguments.get(name):
            raise ValueError(
                f"Expected no `{name}` for {owner}. Received: {name}={arguments[name]!r}. "
                f"Hint: {reason}."
            )


def check_finite_rows(rows: np.ndarray, indices: np.ndarray, name: str = "x") -> np.ndarray:
    """Returns inputs (n, ...) of the examples (n,), whose numbers must be finite."""
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        wrong = indices[~np.isfinite(rows.reshape(len(rows), -1)).all(1)]
        raise ValueError(
            f"Expected finite inputs for `{name}`. Received: NaN or infinity in the examples "
            f"{wrong[:5].tolist()}, {wrong.size} of the {len(rows)} that were read. "
            "Hint: correct them, or leave them out; an ActiveLearner does with Query(ignore=...)."
        )
    return rows


def check_labels(y: object, size: int, num_classes: int, name: str = "y") -> np.ndarray:
    """Returns class numbers (N,) of labels (N,) or (N, 1), which must be whole and in range."""
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
            f"Received: {received}. Hint: class numbers; of one-hot rows, {name}.argmax(-1)."
        )
    return labels
