"""Selection by scores that arrive in blocks. The result does not depend on the blocks."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

# Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", figure 15.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))

Block = tuple[np.ndarray, np.ndarray]  # row numbers (n,), scores (n,)


class Chosen(NamedTuple):
    """Rows chosen from a pool, in the order of choice.

    Attributes:
        rows: Row numbers (k,), int64.
        scores: Scores of these rows (k,), float64.
    """

    rows: np.ndarray
    scores: np.ndarray


def top(blocks: Iterable[Block], size: int) -> Chosen:
    """Return the rows of highest score. Ties go to the first row; NaN is never chosen."""
    return _best(blocks, size, lambda rows, scores: (scores, rows))


def power(blocks: Iterable[Block], size: int, beta: float, seed: int) -> Chosen:
    """Draw rows without replacement, with probability proportional to score^beta.

    The noise of a row is a hash of seed and row. A row whose score is 0 or less is drawn only if
    no others are left.

    Reference:
        Kirsch et al. 2021, "Stochastic Batch Acquisition", section 3, arXiv:2106.12059.
    """

    def keys(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        noise = gumbel(rows, seed)
        with np.errstate(divide="ignore", invalid="ignore"):
            return beta * np.log(np.maximum(scores, 0)) + noise, -noise

    return _best(blocks, size, keys)


def softmax(blocks: Iterable[Block], size: int, beta: float, seed: int) -> Chosen:
    """Draw rows like `power`, but with probability proportional to exp(beta score)."""

    def keys(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return beta * scores + gumbel(rows, seed), rows

    return _best(blocks, size, keys)


def gumbel(rows: np.ndarray, seed: int) -> np.ndarray:
    """Return standard Gumbel noise (n,), a function of seed and row number only.

    Args:
        rows: Row numbers (n,).
        seed: Integer in [0, 2^64).
    """
    with np.errstate(over="ignore"):  # modulo 2^64
        start = _mixed(np.asarray(seed, "uint64") + _GOLDEN)
        bits = _mixed(start + (np.asarray(rows).astype("uint64") + np.uint64(1)) * _GOLDEN)
    uniform = ((bits >> np.uint64(12)).astype("float64") + 0.5) * 2.0**-52  # in (0, 1)
    return -np.log(-np.log(uniform))


def _mixed(bits: np.ndarray) -> np.ndarray:
    for shift, factor in _MIX:
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def _best(
    blocks: Iterable[Block],
    size: int,
    keys: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Chosen:
    """Return the rows with the largest first key. Ties go to the smallest second key."""
    waiting: list[np.ndarray] = []
    least, num_waiting = -np.inf, 0
    for rows, scores in blocks:
        scores = scores.astype("float64")
        first, second = keys(rows, scores)
        kept = (first >= least) & ~np.isnan(scores)
        waiting.append(np.rec.fromarrays([rows[kept], scores[kept], first[kept], second[kept]]))
        num_waiting += int(kept.sum())
        if num_waiting > 4 * size:
            waiting = [_sorted(waiting)[:size]]
            least, num_waiting = waiting[0]["f2"][-1], size
    if not waiting:
        return Chosen(np.empty(0, "int64"), np.empty(0))
    best = _sorted(waiting)[:size]
    return Chosen(best["f0"].astype("int64"), best["f1"].astype("float64"))


def _sorted(waiting: list[np.ndarray]) -> np.ndarray:
    together = np.concatenate(waiting)
    return together[np.lexsort((together["f3"], -together["f2"]))]
