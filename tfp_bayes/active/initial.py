"""Initial sets: indices of the examples to label before the first training.

`balanced` and `kmeans` read labels that a user would not have yet, so they are for studies.
`random_set` and `kmeans_unlabelled` need no labels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes.active.pool import as_indices, check_in_data
from tfp_bayes.active.rows import as_rows


def balanced(
    labels: np.ndarray, size: int, seed: int = 0, exclude: np.ndarray | None = None
) -> np.ndarray:
    """Draw the same number of examples of each class at random, as Gal et al. 2017 do.

    Args:
        labels: (N,) integer labels of the data set.
        size: Number of examples, at least the number of classes. If the number of classes does not
            divide it, some classes get one example more than others.
        seed: Integer.
        exclude: Indices that must not be drawn, such as a validation set.

    Returns:
        Indices (size,) int64, ascending.

    Raises:
        ValueError: If a class has too few examples, or `size` is below the number of classes.

    Example:

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> np.bincount(labels[balanced(labels, 4)])
    array([2, 2])
    """
    return _in_each_class(
        labels,
        size,
        seed,
        exclude,
        lambda members, share, rng: rng.choice(members, share, replace=False),
    )


def random_set(
    num_examples: int, size: int, seed: int = 0, exclude: np.ndarray | None = None
) -> np.ndarray:
    """Draw examples at random, regardless of class, which needs no labels.

    Args:
        num_examples: Number N of examples in the data set.
        size: Number of examples.
        seed: Integer.
        exclude: Indices that must not be drawn.

    Returns:
        Indices (size,) int64, ascending.

    Raises:
        ValueError: If `size` is below 1 or exceeds the number of examples that are not excluded.

    Example:

    >>> random_set(100, 3)
    array([51, 63, 83])
    """
    free = np.flatnonzero(_free(num_examples, exclude))
    _check_size(size, len(free))
    return np.sort(np.random.default_rng(seed).choice(free, size, replace=False))


def kmeans(
    x: np.ndarray,
    labels: np.ndarray,
    size: int,
    seed: int = 0,
    exclude: np.ndarray | None = None,
) -> np.ndarray:
    """Pick representative examples of each class: the medoids of k-means clusters in the class.

    Args:
        x: (N, ...) inputs, compared as vectors.
        labels: (N,) integer labels.
        size: Number of examples, at least the number of classes. If the number of classes does not
            divide it, some classes get one example more than others.
        seed: Integer.
        exclude: Indices that must not be drawn.

    Returns:
        Indices (size,) int64, ascending.

    Raises:
        ValueError: If a class has too few examples, or `size` is below the number of classes.

    Example:

    >>> x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [5.0], [5.1], [5.2]])
    >>> kmeans(x, np.array([0, 0, 0, 0, 0, 0, 1, 1, 1]), 3)
    array([1, 4, 7])
    """
    if len(x) != len(labels):
        raise ValueError(
            f"Expected a label for each of {len(x)} inputs. Received: {len(labels)} labels. "
            "Hint: pass x and y of the same split."
        )

    inputs = as_rows(x)

    def medoids(members: np.ndarray, share: int, rng: np.random.Generator) -> np.ndarray:
        return members[_medoids(inputs[members], share, seed)]

    return _in_each_class(labels, size, seed, exclude, medoids)


def kmeans_unlabelled(
    x: np.ndarray, size: int, seed: int = 0, exclude: np.ndarray | None = None
) -> np.ndarray:
    """Pick representative examples without labels: the medoids of `size` k-means clusters.

    Args:
        x: (N, ...) inputs, compared as vectors. If there are more than 10,000, a random subset of
            10,000 is clustered.
        size: Number of examples.
        seed: Integer.
        exclude: Indices that must not be drawn.

    Returns:
        Indices (size,) int64, ascending.

    Raises:
        ValueError: If `size` is below 1 or exceeds the number of examples that are not excluded.

    Example:

    >>> kmeans_unlabelled(np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]]), 2)
    array([1, 4])
    """
    inputs = as_rows(x)
    free = np.flatnonzero(_free(len(inputs), exclude))
    _check_size(size, len(free))
    if len(free) > _MAX_CLUSTERED:
        free = np.sort(np.random.default_rng(seed).choice(free, _MAX_CLUSTERED, replace=False))
    return np.sort(free[_medoids(inputs[free], size, seed)])


def coverage(labels: np.ndarray, indices: np.ndarray) -> dict[int, int]:
    """Count the examples of each class in an initial set, including classes with none.

    Args:
        labels: (N,) integer labels of the data set.
        indices: Indices of the initial set.

    Example:

    >>> coverage(np.array([0, 0, 1, 2]), np.array([0, 1, 3]))
    {0: 2, 1: 0, 2: 1}
    """
    labels = np.asarray(labels)
    chosen = labels[indices]
    return {int(k): int(np.count_nonzero(chosen == k)) for k in np.unique(labels)}


_MAX_CLUSTERED = 10_000


def _medoids(x: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return positions (size,) of the examples nearest to the cluster centers, all different."""
    from sklearn.cluster import KMeans  # takes a second to import, and most runs do not need it
    from sklearn.metrics import pairwise_distances_argmin

    flat = np.asarray(x, "float64").reshape(len(x), -1)
    clusters = KMeans(size, n_init=3, random_state=seed).fit(flat)
    medoids = pairwise_distances_argmin(clusters.cluster_centers_, flat)
    if len(np.unique(medoids)) < size:  # centers coincide if x has duplicates
        others = np.setdiff1d(np.arange(len(flat)), medoids)
        medoids = np.concatenate([np.unique(medoids), others])[:size]
    return medoids


def _checked_labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not labels.size:
        raise ValueError(
            "Expected integer labels (N,) for `labels`, N > 0. Received: "
            f"{labels.dtype} of shape {labels.shape}. "
            "Hint: pass y_train, or y_train.argmax(-1) if it is one-hot."
        )
    return labels


def _free(num_examples: int, exclude: np.ndarray | None) -> np.ndarray:
    free = np.ones(num_examples, dtype=bool)
    if exclude is None:
        return free
    exclude = as_indices(exclude, "exclude")
    check_in_data(exclude, num_examples, "exclude")
    free[exclude] = False
    return free


def _check_size(size: int, largest: int) -> None:
    check_integers(1, size=size)
    if not 1 <= size <= largest:
        raise ValueError(
            f"Expected `size` between 1 and {largest}. Received: size={size}. Hint: 20 is usual."
        )


def join(initial: ArrayLike, labels: ArrayLike | None) -> Any:
    """Combine the arguments `initial` and `initial_labels` of 0.1 into today's `initial`."""
    return initial if labels is None else (initial, labels)


def with_labels(
    initial: ArrayLike | tuple[ArrayLike, ArrayLike], y: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Split a learner's `initial` into indices (n,) and labels.

    Args:
        initial: At least one index whose label is in `y`, or a tuple of indices and labels.
        y: (N, ...) labels of the data set, or None.

    Returns:
        The indices, and the labels if `initial` is a tuple, otherwise None.

    Raises:
        ValueError: If `initial` is not a nonempty array (n,), or there are no labels.
    """
    labels = None
    if isinstance(initial, tuple) and len(initial) == 2 and np.ndim(initial[0]):
        initial, labels = initial
    indices = np.asarray(initial)
    if indices.ndim != 1 or not indices.size or (labels is None and y is None):
        raise ValueError(
            "Expected indices (n,) whose labels are in `y`, or a tuple of indices and labels, for "
            f"`initial`. Received: initial of shape {indices.shape}, "
            f"{'no labels' if labels is None and y is None else 'labels'}. "
            "Hint: initial.balanced(y, 20) chooses indices; if no label is known, label a few "
            "examples of each class first."
        )
    return indices, None if labels is None else np.asarray(labels)


def _in_each_class(
    labels: np.ndarray,
    size: int,
    seed: int,
    exclude: np.ndarray | None,
    choose: Callable[[np.ndarray, int, np.random.Generator], np.ndarray],
) -> np.ndarray:
    """Choose equally many examples of each class among those that are not excluded."""
    labels = _checked_labels(labels)
    free = _free(len(labels), exclude)
    rng = np.random.default_rng(seed)
    chosen = [
        choose(np.flatnonzero(free & (labels == label)), share, rng)
        for label, share in _shares(labels[free], labels, size, rng)
    ]
    return np.sort(np.concatenate(chosen))


def _shares(
    available: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Return how many examples to take of each class; the numbers differ by at most 1."""
    classes = np.unique(labels)
    check_integers(1, size=size)
    if size < len(classes):
        raise ValueError(
            f"Expected `size` of at least {len(classes)}, one example of each class. "
            f"Received: size={size}. Hint: random_set and kmeans_unlabelled accept fewer."
        )
    shares = np.full(len(classes), size // len(classes))
    shares[rng.permutation(len(classes))[: size % len(classes)]] += 1
    for label, share in zip(classes, shares):
        count = np.count_nonzero(available == label)
        if count < share:
            raise ValueError(
                f"Expected at least {share} examples of class {label}. "
                f"Received: {count}. Hint: choose a smaller `size`."
            )
    return list(zip(classes.tolist(), shares.tolist()))
