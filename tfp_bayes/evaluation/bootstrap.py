"""Bootstrap over examples: metrics of resampled rows, computed from how often each row was drawn.

No row is copied and nothing is sorted again. Means and fixed bins are products of the counts with a
matrix. Metrics that rank examples use running sums of the counts in rank order, which is the same
in every resample.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 1000
_NUMBERS_AT_ONCE = 2**18  # counts in memory at once; few enough that running sums stay in cache


class Counts(NamedTuple):
    """How often each row occurs in each of b resamples.

    Attributes:
        rows: (b, N) float64 counts of the examples.
        others: (b, M) counts of the out-of-distribution examples; M = 0 if there are none.
    """

    rows: np.ndarray
    others: np.ndarray


# A function from counts to metrics (b,) by name.
Resampler = Callable[[Counts], dict[str, np.ndarray]]


def resample(
    resamplers: Mapping[str, Sequence[Resampler]],
    num_rows: int,
    num_others: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, np.ndarray]]:
    """Computes metrics of several models on the same resamples.

    Args:
        resamplers: Resamplers of each model, by model name.
        num_rows: Number of examples N.
        num_others: Number of out-of-distribution examples M, which are resampled separately.
        num_resamples: Number of resamples B.
        seed: Seed of the resamples.

    Returns:
        Values (B,) by model and metric; NaN where a metric is undefined for a resample.
    """
    found: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in resamplers}
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have no errors
        for counts in _draw(num_rows, num_others, num_resamples, seed):
            for name, functions in resamplers.items():
                for function in functions:
                    for metric, values in function(counts).items():
                        found[name].setdefault(metric, []).append(values)
    return {
        name: {metric: np.concatenate(parts) for metric, parts in metrics.items()}
        for name, metrics in found.items()
    }


def _draw(num_rows: int, num_others: int, num_resamples: int, seed: int) -> Iterator[Counts]:
    rng = np.random.default_rng(seed)
    at_once = max(1, _NUMBERS_AT_ONCE // (num_rows + num_others))
    for done in range(0, num_resamples, at_once):
        number = min(at_once, num_resamples - done)
        yield Counts(*(_multinomial(rng, number, size) for size in (num_rows, num_others)))


def _multinomial(rng: np.random.Generator, number: int, size: int) -> np.ndarray:
    """Resamples `size` rows with replacement, `number` times; returns counts (number, size)."""
    if size == 0:
        return np.zeros((number, 0))
    drawn = rng.integers(0, size, (number, size))
    return np.stack([np.bincount(row, minlength=size) for row in drawn]).astype("float64")


def averages(
    values: np.ndarray, metrics: Mapping[str, tuple[slice, Callable[[np.ndarray], np.ndarray]]]
) -> Resampler:
    """Returns a resampler of metrics that are functions of column means.

    Args:
        values: (N, M) numbers.
        metrics: By metric name, the columns and a function from their means (b, m) to (b,).
    """

    def function(counts: Counts) -> dict[str, np.ndarray]:
        means = counts.rows @ values / len(values)
        return {name: reduce(means[:, columns]) for name, (columns, reduce) in metrics.items()}

    return function


def selective(errors: np.ndarray, uncertainty: np.ndarray, names: Mapping[str, str]) -> Resampler:
    """Returns a resampler of selective metrics: how well uncertainty ranks a model's errors.

    An error e with count c_e contributes through the examples that are kept after it. So the sums
    go over the few errors only, plus one running sum over all examples:
    AUGRC = sum_e c_e (N - (kept before e + kept with e) / 2) / N^2.

    Args:
        errors: (N,) 0 or 1.
        uncertainty: (N,) uncertainties, higher where the model is less sure.
        names: Metric names for the keys "aurc", "augrc" and "auroc". A metric without a name is not
            computed.
    """
    order = np.argsort(uncertainty, kind="stable")
    ascending = uncertainty[order]
    wrong = np.flatnonzero(errors)
    before = np.searchsorted(ascending, uncertainty[wrong], "left")
    until = np.searchsorted(ascending, uncertainty[wrong], "right")
    ends = np.flatnonzero(np.append(ascending[1:] != ascending[:-1], True)) + 1
    group = np.searchsorted(ends, until)

    def function(counts: Counts) -> dict[str, np.ndarray]:
        size = len(uncertainty)
        kept = _running_sums(np.take(counts.rows, order, axis=1))
        weights = np.take(counts.rows, wrong, axis=1)
        passed = np.take(kept, before, axis=1) + np.take(kept, until, axis=1)
        generalized = np.einsum("be,be->b", weights, size - passed / 2) / size**2
        found = {}
        if "aurc" in names:
            # A threshold with nothing below it in a resample is not a point of its curve.
            kept = kept[:, np.append(0, ends)]
            risk_of_error = np.diff(kept, axis=1) / np.maximum(kept[:, 1:], 1)
            passed = _running_sums(risk_of_error)
            left = passed[:, -1:] - np.take(passed, group, axis=1)
            found[names["aurc"]] = np.einsum("be,be->b", weights, left) / size
        if "augrc" in names:
            found[names["augrc"]] = generalized
        if "auroc" in names:
            share = weights.sum(axis=1) / size
            unsorted = generalized - share**2 / 2  # Traub et al. 2024, the identity of `augrc`
            found[names["auroc"]] = 1 - unsorted / (share * (1 - share))
        return found

    return function


def detection(
    uncertainty_in: np.ndarray, uncertainty_out: np.ndarray, auroc: str, fpr95: str
) -> Resampler:
    """Returns a resampler of the AUROC and FPR95 of out-of-distribution detection.

    Args:
        uncertainty_in: (N,) uncertainties of in-distribution examples; higher is less sure.
        uncertainty_out: (M,) uncertainties of out-of-distribution examples.
        auroc: Metric name of the AUROC.
        fpr95: Metric name of the FPR95.
    """
    order_in, order_out = (np.argsort(-u, kind="stable") for u in (uncertainty_in, uncertainty_out))
    minus_in, minus_out = -uncertainty_in[order_in], -uncertainty_out[order_out]  # ascending
    above = np.searchsorted(minus_out, minus_in, "left")
    at_least = np.searchsorted(minus_out, minus_in, "right")
    # In-distribution examples rejected at the threshold of each out-of-distribution example.
    rejected = np.searchsorted(minus_in, minus_out, "right")

    def function(counts: Counts) -> dict[str, np.ndarray]:
        familiar = np.take(counts.rows, order_in, axis=1)
        found = _running_sums(np.take(counts.others, order_out, axis=1))
        size = len(uncertainty_in), len(uncertainty_out)
        pairs = np.take(found, above, axis=1) + np.take(found, at_least, axis=1)
        thresholds = [np.searchsorted(row, (0.95 - 1e-12) * size[1]) - 1 for row in found]
        false = [row[: rejected[t]].sum() for row, t in zip(familiar, thresholds)]
        return {
            auroc: np.einsum("bn,bn->b", familiar, pairs) / (2 * size[0] * size[1]),
            fpr95: np.array(false) / size[0],
        }

    return function


def _running_sums(values: np.ndarray) -> np.ndarray:
    """Returns the sums (b, n + 1) of the first 0, 1, ..., n columns of values (b, n)."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums
