"""Sufficient statistics of features and targets, checked, centered and summed block by block."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from tfp_bayes.layers import conjugate

_ROWS_AT_A_TIME = 8192

Block = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # features, targets, sample weights


@dataclasses.dataclass(frozen=True)
class Center:
    """Means of the features (F,) and the targets (D,), and the sum of the sample weights."""

    features: np.ndarray
    targets: np.ndarray
    count: float

    def join(self, other: "Center") -> tuple["Center", np.ndarray]:
        """Return the center of two data sets together, and the row that accounts for the shift.

        Adding the row (F + D,) to the centered rows of both data sets gives the products of the
        joint data set around its own center.

        Reference:
            Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance",
            equation 2.1.
        """
        total = self.count + other.count
        return self._moved(other, other.count, total)

    def leave(self, other: "Center") -> tuple["Center", np.ndarray]:
        """Return the center without the other's data, and the row to remove; see `join`."""
        return self._moved(other, -other.count, self.count - other.count)

    def _moved(self, other: "Center", weight: float, total: float) -> tuple["Center", np.ndarray]:
        step = weight / total if total else 0.0
        features, targets = other.features - self.features, other.targets - self.targets
        center = Center(self.features + step * features, self.targets + step * targets, total)
        return center, np.sqrt(abs(step) * self.count) * np.concatenate([features, targets])


class Examples:
    """Sufficient statistics of examples. Their size does not grow with the number of examples.

    Args:
        num_features: Number of features F.
        num_outputs: Number of outputs D.
        centered: Whether to subtract means, which accounts for an intercept.
        ratio: Smallest r of the posteriors that will be computed from them. None avoids sums of
            products of features, which are faster but need well-conditioned features.
    """

    def __init__(
        self, num_features: int, num_outputs: int, centered: bool, ratio: float | None = None
    ):
        self.center = Center(np.zeros(num_features), np.zeros(num_outputs), 0.0)
        self._centered = centered
        self._ratio = ratio
        self._width, self._size = num_features, num_features + num_outputs
        self._gram: np.ndarray | None = None  # sum over well-conditioned blocks
        self._rows: list[np.ndarray] = []  # rows of all other blocks

    def add(self, phi: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add a block of features (N, F), targets (N, D) and weights (N,)."""
        count = float(len(phi)) if weights is None else float(weights.sum())
        if not count:
            return
        center = dataclasses.replace(self.center, count=count)  # means of 0 unless centered
        if self._centered:
            means = [np.average(each, axis=0, weights=weights) for each in (phi, y)]
            center = Center(means[0], means[1], count)
            phi, y = phi - center.features, y - center.targets
        if weights is not None:
            root = np.sqrt(weights)[:, None]
            phi, y = root * phi, root * y
        self.center, shift = self.center.join(center)
        if self._ratio is not None and len(phi) >= 2 * self._size:
            gram = conjugate.product_sums(phi, y) + np.outer(shift, shift)
            gram = gram if self._gram is None else gram + self._gram
            if conjugate.is_well_conditioned(gram, self._width, self._ratio):
                self._gram = gram
                return
        self._rows += [np.hstack([phi, y]), shift[None]]
        if sum(map(len, self._rows)) > 2 * self._size:
            self._rows = [conjugate.triangle_of(self.rows)]

    def join(self, other: "Examples") -> None:
        """Add the statistics of another `Examples` object with the same arguments."""
        self.center, shift = self.center.join(other.center)
        if other._gram is not None:
            self._gram = other._gram if self._gram is None else self._gram + other._gram
        self._rows += [*other._rows, shift[None]]
        if sum(map(len, self._rows)) > 2 * self._size:
            self._rows = [conjugate.triangle_of(self.rows)]

    def get_state(self) -> dict[str, np.ndarray]:
        """Return all statistics. `gram` is empty if there are no sums of products."""
        return {
            "features": self.center.features,
            "targets": self.center.targets,
            "count": np.array(self.center.count),
            "gram": np.empty((0, 0)) if self._gram is None else self._gram,
            "rows": conjugate.triangle_of(self.rows),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore the result of `get_state` of an object with the same arguments."""
        self.center = Center(state["features"], state["targets"], float(state["count"]))
        self._gram = state["gram"] if state["gram"].size else None
        self._rows = [state["rows"]]

    @property
    def rows(self) -> np.ndarray:
        """The rows (n, F + D) that are not part of the sums of products."""
        return np.vstack([np.empty((0, self._size)), *self._rows])

    def factor(self, ratio: float, outputs: slice) -> conjugate.Factor:
        """Return the posterior of some outputs given only these examples."""
        at = self._columns(outputs)
        if self._gram is None:
            factor = conjugate.prior_factor(self._width, len(at) - self._width, ratio)
        else:
            factor = conjugate.from_products(self._gram[np.ix_(at, at)], self._width, ratio)
        return conjugate.add_rows(factor, self.rows[:, at])

    def added_to(self, factor: conjugate.Factor, outputs: slice) -> conjugate.Factor:
        """Return the posterior of some outputs given these examples and those in `factor`."""
        at = self._columns(outputs)
        if self._gram is not None:
            new = conjugate.from_products(self._gram[np.ix_(at, at)], self._width, 0.0)
            triangle = np.hstack([new.root, new.projected])
            factor = conjugate.add_rows(factor, triangle, triangular=True)
            factor = factor._replace(residual=factor.residual + new.residual)
        return conjugate.add_rows(factor, self.rows[:, at])

    def _columns(self, outputs: slice) -> np.ndarray:
        return np.r_[: self._width, np.arange(self._width, self._size)[outputs]]


def blocks(
    features: np.ndarray | Iterable,
    targets: np.ndarray | None,
    sample_weight: np.ndarray | None = None,
) -> Iterator[Block]:
    """Yield blocks of several thousand rows from arrays or from an iterable of batches.

    Raises:
        ValueError: If the numbers of features, targets and weights differ, or weights are given
            beside an iterable.
    """
    if targets is None:
        if sample_weight is not None:
            raise ValueError(
                "Expected sample weights inside the dataset. Received: `sample_weight` and no "
                "`targets`. Hint: a dataset of (features, targets, sample weights)."
            )
        yield from _joined(features)
        return
    features, targets = np.asarray(features), np.asarray(targets)
    weights = None if sample_weight is None else np.asarray(sample_weight)
    if len({len(a) for a in (features, targets, weights) if a is not None}) != 1:
        raise ValueError(
            "Expected as many `targets` and `sample_weight`, if given, as `features`. Received: "
            f"features of shape {features.shape}, targets of shape {targets.shape}, "
            f"sample_weight of shape {None if weights is None else weights.shape}. "
            "Hint: rows are examples."
        )
    for i in range(0, max(len(features), 1), _ROWS_AT_A_TIME):
        at = slice(i, i + _ROWS_AT_A_TIME)
        yield features[at], targets[at], None if weights is None else weights[at]


def _joined(batches: Iterable) -> Iterator[Block]:
    """Join small batches, because the time for a block hardly depends on its size."""
    waiting: list[Block] = []
    for batch in batches:
        features, targets, *weights = batch
        weights = None if not weights or weights[0] is None else np.asarray(weights[0], "float64")
        block = np.asarray(features, "float64"), np.asarray(targets, "float64"), weights
        if waiting and not _can_join(block, waiting[-1]):
            yield _join(waiting)
            waiting = []
        waiting.append(block)
        if sum(len(each[0]) for each in waiting) >= _ROWS_AT_A_TIME:
            yield _join(waiting)
            waiting = []
    if waiting:
        yield _join(waiting)


def _can_join(one: Block, other: Block) -> bool:
    shapes = [[a.shape[1:] for a in block[:2]] for block in (one, other)]
    return shapes[0] == shapes[1] and (one[2] is None) == (other[2] is None)


def _join(waiting: list[Block]) -> Block:
    features, targets, weights = zip(*waiting)
    joined = None if weights[0] is None else np.concatenate(weights)
    return np.concatenate(features), np.concatenate(targets), joined


def check_features(features: np.ndarray, width: int | None, owner: str) -> np.ndarray:
    """Return features (N, width) in float64.

    Raises:
        ValueError: If the shape is another, or a value is not finite.
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
    """Return targets (N, units) in float64. One unit accepts (N,) too.

    Raises:
        ValueError: If the shape is another, or a value is not finite.
    """
    y = np.asarray(targets, "float64")
    if y.ndim == 1 and units == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[1] != units or not np.isfinite(y).all():
        raise ValueError(
            f"Expected finite `targets` of shape (N, {units}) for {owner!r}. "
            f"Received: targets of shape {y.shape}, {_num_not_finite(y)} values not finite. "
            "Hint: convert class labels with keras.utils.to_categorical."
        )
    return y


def check_weights(weights: np.ndarray | None, size: int, owner: str) -> np.ndarray | None:
    """Return sample weights (size,) in float64, or None.

    Raises:
        ValueError: If the shape is another, or a value is negative or not finite.
    """
    if weights is None:
        return None
    result = np.asarray(weights, "float64")
    if result.shape != (size,) or not np.isfinite(result).all() or (result < 0).any():
        raise ValueError(
            f"Expected finite `sample_weight` of shape ({size},), none below 0, for {owner!r}. "
            f"Received: sample_weight of shape {result.shape}, {_num_not_finite(result)} values "
            f"not finite, {int((result < 0).sum())} below 0. Hint: one number for each example."
        )
    return result


def _num_not_finite(values: np.ndarray) -> int:
    return int((~np.isfinite(values)).sum())
