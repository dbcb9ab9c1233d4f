"""Assembly of a `Dataset`: numbering of classes, and division into training and test sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfp_bayes.datasets import hold_out
from tfp_bayes.datasets.dataset import SPLITS, Dataset


def number_classes(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns class numbers (N,) int64 and the K names, sorted (as numbers if all are integers).

    Raises:
        ValueError: If two names are the same number or word, such as "1" and "1.0", or "cat" and
            "Cat".
    """
    names = sorted(set(labels))
    _check_spellings(names)
    if all(name.removeprefix("-").isdecimal() for name in names):
        names.sort(key=int)
    places = {name: k for k, name in enumerate(names)}
    return np.array([places[label] for label in labels], "int64"), tuple(names)


def divide(
    labels: np.ndarray, splits: Sequence[str] | None, groups: Sequence[str] | None, classes: bool
) -> dict[str, np.ndarray]:
    """Returns the rows of the training, validation and test set.

    Without `splits`, a fifth is held out for the test set, of each class or in whole groups. If
    `splits` has a validation set and no test set, the validation set becomes the test set.

    Args:
        labels: (N,) class numbers or targets.
        splits: "train", "validation" or "test" for each row, or None.
        groups: (N,) group names, or None.
        classes: Whether labels are class numbers.

    Raises:
        ValueError: If there is no row for training, or a group is in two sets.
    """
    if splits is None:
        if groups is not None:
            held_out = hold_out.by_group(np.array(groups), labels if classes else None)
        else:
            held_out = hold_out.by_class(labels) if classes else hold_out.at_random(len(labels))
        named = np.where(held_out, "test", "train")
    else:
        named = np.array(splits)
        if "test" not in splits and "validation" in splits:
            named = np.where(named == "validation", "test", named)
    if groups is not None:
        _check_groups(named, np.array(groups))
    rows = {name: np.flatnonzero(named == name) for name in SPLITS}
    if not len(rows["train"]):
        raise ValueError(
            "Expected rows for training. Received: none; all are for testing. "
            "Hint: mark some as 'train'."
        )
    return rows


def dataset(
    x: Any,
    y: np.ndarray,
    rows: dict[str, np.ndarray],
    sources: np.ndarray,
    class_names: tuple[str, ...],
    **further: Any,
) -> Dataset:
    """Returns a `Dataset` of the rows of each set.

    Args:
        x: (N, ...) array or `ImageFiles`.
        y: (N,) labels.
        rows: Rows of each set, from `divide`.
        sources: (N,) strings that tell where each row comes from.
        class_names: K class names.
        **further: Other attributes of the `Dataset`.

    Raises:
        ValueError: If a class has no example in the training set.
    """
    if class_names:
        missing = np.setdiff1d(np.arange(len(class_names)), y[rows["train"]])
        if len(missing):
            raise ValueError(
                "Expected examples of each class for training. Received: none of "
                f"{[class_names[k] for k in missing]}. Hint: move some from the other sets."
            )

    def some(indices: np.ndarray) -> Any:
        return x[indices] if isinstance(x, np.ndarray) else x.select(indices)

    validation = rows["validation"]
    return Dataset(
        some(rows["train"]),
        y[rows["train"]],
        some(rows["test"]),
        y[rows["test"]],
        class_names,
        some(validation) if len(validation) else None,
        y[validation] if len(validation) else None,
        {name: sources[indices] for name, indices in rows.items() if len(indices)},
        **further,
    )


def _check_spellings(names: Sequence[str]) -> None:
    """Raise ValueError if two class names are one number or word, because one class would be two.

    Single letters may differ in case, as those of handwriting do.
    """
    spellings: dict[float | str, str] = {}
    for name in names:
        try:
            key: float | str = float(name)
        except ValueError:
            key = name.casefold() if len(name) > 1 else name
        first = spellings.setdefault(key, name)
        if first != name:
            kind = "word" if isinstance(key, str) else "number"
            raise ValueError(
                "Expected one spelling of each class. Received: the classes "
                f"{first!r} and {name!r}, which are the same {kind}. "
                "Hint: write it the same way everywhere, or use other names."
            )


def _check_groups(named: np.ndarray, groups: np.ndarray) -> None:
    for group in np.unique(groups):
        sets = np.unique(named[groups == group])
        if len(sets) > 1:
            raise ValueError(
                f"Expected each group in one set. Received: {str(group)!r} in {sets.tolist()}. "
                "Hint: correct the column 'split'; otherwise test results are too optimistic."
            )
