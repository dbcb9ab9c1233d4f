"""Test sets for data without one: a reproducible fifth, by class, at random or by group."""

import numpy as np

SHARE = 5  # hold out one in five
_TRIES = 100


def by_class(labels: np.ndarray) -> np.ndarray:
    """Marks a fifth (N,) of each class for the test set; each class keeps a training example."""
    rng = np.random.default_rng(0)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(round(len(members) / SHARE), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    return held_out


def at_random(size: int) -> np.ndarray:
    """Marks a fifth (N,) of all examples for the test set; used for numeric targets."""
    held_out = np.zeros(size, bool)
    held_out[np.random.default_rng(0).permutation(size)[: round(size / SHARE)]] = True
    return held_out


def by_group(groups: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Marks whole groups with about a fifth (N,) of the examples for the test set.

    Args:
        groups: (N,) group names; a group is never divided.
        labels: (N,) class numbers, each of which must remain in training; None for numeric targets.

    Raises:
        ValueError: If there is only one group, or no choice that was tried leaves every class in
            training.
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
        "Expected groups of which some can be held out with every class left in training. Received:"
        f" {len(names)} groups. Hint: mark rows as 'train' or 'test' in a column `split`."
    )
