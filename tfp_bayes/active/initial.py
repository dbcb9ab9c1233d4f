"""Initial labelled sets."""

import numpy as np


def balanced(
    labels: np.ndarray, size: int, seed: int = 0, exclude: np.ndarray | None = None
) -> np.ndarray:
    """Draws the same number of examples of each class at random, Gal et al.'s start.

    Args:
        labels: (N,) integer labels of the data set.
        size: Number of examples; where it does not divide by the classes, some get one more.
        seed: Integer.
        exclude: Indices that must not be drawn, such as a validation set.

    Returns:
        Indices (size,) int64, ascending.

    Raises:
        ValueError: If a class has too few examples or `size` is below 1.

    Example:

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> np.bincount(labels[balanced(labels, 4)])
    array([2, 2])
    """
    labels = np.asarray(labels)
    free = np.ones(len(labels), dtype=bool)
    free[np.asarray([] if exclude is None else exclude, dtype="int64")] = False
    classes = np.unique(labels)
    if size < 1:
        raise ValueError(f"Expected a positive `size`. Received: size={size}. Hint: 20 is usual.")
    rng = np.random.default_rng(seed)
    shares = np.full(len(classes), size // len(classes))
    shares[rng.permutation(len(classes))[: size % len(classes)]] += 1
    chosen = []
    for label, share in zip(classes, shares):
        available = np.flatnonzero(free & (labels == label))
        if len(available) < share:
            raise ValueError(
                f"Expected at least {share} examples of class {label}. "
                f"Received: {len(available)}. Hint: choose a smaller `size`."
            )
        chosen.append(rng.choice(available, share, replace=False))
    return np.sort(np.concatenate(chosen))
