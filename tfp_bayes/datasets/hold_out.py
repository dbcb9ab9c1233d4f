"""A test set for data that come without one: a fifth, by class or by group, always the same."""

import numpy as np

SHARE = 5  # one in five
_TRIES = 100


def by_class(labels: np.ndarray) -> np.ndarray:
    """Marks a fifth (N,) of each class for the test set; every class keeps an example."""
    rng = np.random.default_rng(0)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(round(len(members) / SHARE), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    return held_out


def at_random(size: int) -> np.ndarray:
    """Marks a fifth (N,) of all examples, whose targets are numbers."""
    held_out = np.zeros(size, bool)
    held_out[np.random.default_rng(0).permutation(size)[: round(size / SHARE)]] = True
    return held_out


def by_group(groups: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Marks whole groups that hold about a fifth (N,) of the examples.

    Args:
        groups: (N,) names; examples of one are never divided.
        labels: (N,) class numbers, all of which must be left for training; None of numbers.

    Raises:
        ValueError: If there is one group only, or no choice found leaves each class.
    """
    names, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)
    rng = np.random.default_rng(0)
    for _ in range(_TRIES if len(names) > 1 else 0):
        order = rng.permutation(len(names))
        total = np.cumsum(sizes[order])
        count = min(int(np.searchsorted(total, len(groups) / SHARE)) + 1, len(names) - 1)
        held_out = np.isin(members, order[:count])
        if labels is None or len(np.unique(labels[~held_out])) == len(np.unique(labels)):
            return held_out
    raise ValueError(
        "Expected groups of which some can be held out while every class is left. Received: "
        f"{len(names)} groups. Hint: say in a column `split` which rows are 'train' and 'test'."
    )
