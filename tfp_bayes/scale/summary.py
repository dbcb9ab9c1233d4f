"""Summary of scored rows: counts and sums, which add up exactly over parts."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tfp_bayes._plumbing.bins import equal_width
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.probabilities import log_losses
from tfp_bayes.scale.sums import as_float, exact_sum

MEASURES = ("predictive_entropy", "expected_entropy", "mutual_information")
PER_NAT = 64  # number of histogram bins per nat
NUM_BINS = 15  # number of confidence bins
_FARTHEST = 2**40  # bins beyond this one are counted in it


@dataclass
class Summary:
    """Counts and sums over scored rows. `a + b` is the summary of both sets of rows.

    All values are integers (sums are multiples of 2^-1126, see `sums.exact_sum`). So the result
    is bit-equal for any partition of the rows and any order of the parts.

    Attributes:
        num_rows: Number of rows N.
        num_non_finite: Number of rows with a NaN or infinite score or measure. Nothing below
            includes them.
        sums: Sums of the score and of each measure.
        histograms: For the score and each measure, number of rows per bin of width 1/64,
            `floor(64 value)`.
        predicted: Number of rows per most probable class, for a classifier.
        labelled: Sums for a labeled pool: nll, and for each bin of confidence the number of rows,
            the number of correct rows and the confidence.
        confusion: Number of rows per "label,predicted", for a labeled pool.
    """

    num_rows: int = 0
    num_non_finite: int = 0
    sums: Counter = field(default_factory=Counter)
    histograms: dict[str, Counter] = field(default_factory=dict)
    predicted: Counter = field(default_factory=Counter)
    labelled: Counter = field(default_factory=Counter)
    confusion: Counter = field(default_factory=Counter)

    @classmethod
    def of(cls, columns: dict[str, np.ndarray]) -> "Summary":
        """Summarize rows.

        Args:
            columns: Columns by name, see `scoring.ScoreJob`. With "label", there must be "mean".
        """
        finite = is_finite(columns)
        kept = {name: values[finite] for name, values in columns.items()}
        summary = cls(len(finite), int((~finite).sum()))
        for name in ("score", *MEASURES):
            values = kept[name].astype("float64")
            summary.sums[name] = exact_sum(values)
            bins = np.clip(np.floor(values * PER_NAT), -_FARTHEST, _FARTHEST).astype("int64")
            summary.histograms[name] = _count(bins)
        if "predicted" in kept:
            summary.predicted = _count(kept["predicted"])
        if "label" in kept:
            summary._add_labels(kept["label"], kept["predicted"], kept["mean"].astype("float64"))
        return summary

    def _add_labels(self, labels: np.ndarray, predicted: np.ndarray, mean: np.ndarray) -> None:
        confidence = mean.max(-1, initial=0.0)
        bins = equal_width(confidence, NUM_BINS)
        self.labelled["nll"] = exact_sum(log_losses(labels, mean))
        for b in np.unique(bins).tolist():
            at = bins == b
            self.labelled[f"rows {b}"] = int(at.sum())
            self.labelled[f"right {b}"] = int((labels == predicted)[at].sum())
            self.labelled[f"confidence {b}"] = exact_sum(confidence[at])
        self.confusion = Counter(f"{y},{k}" for y, k in zip(labels.tolist(), predicted.tolist()))

    def __add__(self, other: "Summary") -> "Summary":
        none: Counter = Counter()
        names = [*self.histograms, *(name for name in other.histograms if name not in self.sums)]
        return Summary(
            self.num_rows + other.num_rows,
            self.num_non_finite + other.num_non_finite,
            _added(self.sums, other.sums),
            {
                name: _added(self.histograms.get(name, none), other.histograms.get(name, none))
                for name in names
            },
            _added(self.predicted, other.predicted),
            _added(self.labelled, other.labelled),
            _added(self.confusion, other.confusion),
        )

    def as_json(self) -> dict:
        """Return the summary as plain JSON. `from_json` restores it."""
        record = dict(vars(self))
        record["histograms"] = {name: _sorted(each) for name, each in self.histograms.items()}
        return {k: _sorted(v) if isinstance(v, Counter) else v for k, v in record.items()}

    @classmethod
    def from_json(cls, record: dict) -> "Summary":
        """Restore a summary from the result of `as_json`."""
        histograms = {name: _numbered(each) for name, each in record["histograms"].items()}
        return cls(
            record["num_rows"],
            record["num_non_finite"],
            Counter(record["sums"]),
            histograms,
            _numbered(record["predicted"]),
            Counter(record["labelled"]),
            Counter(record["confusion"]),
        )

    # Statistics.

    def mean(self, name: str) -> float:
        """Return the mean of "score" or of a measure over the finite rows, or NaN without any.

        Raises:
            ValueError: If `name` is neither.
        """
        _check_name(name)
        count = self.num_rows - self.num_non_finite
        return as_float(self.sums[name]) / count if count else math.nan

    def quantile(self, name: str, probability: float) -> float:
        """Return a quantile of "score" or of a measure: the upper edge of its bin of width 1/64.

        Raises:
            ValueError: If `name` is neither, or `probability` is not in [0, 1].
        """
        _check_name(name)
        if not 0 <= probability <= 1:
            raise ValueError(
                "Expected a number in [0, 1] for `probability`. Received: "
                f"probability={probability!r}. Hint: 0.5 is the median."
            )
        bins = sorted(self.histograms.get(name, {}).items())
        wanted, seen = probability * sum(count for _, count in bins), 0
        for place, count in bins:
            seen += count
            if seen >= wanted:
                return (place + 1) / PER_NAT
        return math.nan

    @property
    def nll(self) -> float:
        """Mean negative log likelihood of the labels in nats, or NaN without labels."""
        if not self._num_labelled:
            return math.nan
        return as_float(self.labelled["nll"]) / self._num_labelled

    @property
    def accuracy(self) -> float:
        """Fraction of rows whose label is the most probable class, or NaN without labels."""
        if not self._num_labelled:
            return math.nan
        return sum(self.labelled[f"right {b}"] for b in range(NUM_BINS)) / self._num_labelled

    @property
    def expected_calibration_error(self) -> float:
        """Mean gap between confidence and accuracy over 15 bins of equal width.

        The result is NaN without labels.

        See `metrics.expected_calibration_error`.
        """
        if not self._num_labelled:
            return math.nan
        gaps = (
            abs(self.labelled[f"right {b}"] - as_float(self.labelled[f"confidence {b}"]))
            for b in range(NUM_BINS)
        )
        return math.fsum(gaps) / self._num_labelled

    def confusion_matrix(self, num_classes: int) -> np.ndarray:
        """Return counts (K, K). Rows are labels; columns are most probable classes.

        Args:
            num_classes: Number of classes K.

        Raises:
            ValueError: If the pool has no labels, or a label or class is not below K.
        """
        if not self.labelled:
            raise ValueError(
                "Expected a pool with labels. Received: one without. Hint: `predicted` counts the "
                "rows of each most probable class."
            )
        largest = max((int(k) for pair in self.confusion for k in pair.split(",")), default=0)
        check_integers(largest + 1, num_classes=num_classes)
        matrix = np.zeros((num_classes, num_classes), "int64")
        for pair, count in self.confusion.items():
            label, predicted = map(int, pair.split(","))
            matrix[label, predicted] = count
        return matrix

    @property
    def _num_labelled(self) -> int:
        return sum(self.labelled[f"rows {b}"] for b in range(NUM_BINS))


def _check_name(name: str) -> None:
    names = ("score", *MEASURES)
    if name not in names:
        raise ValueError(
            f"Expected one of {names} for `name`. Received: name={name!r}. "
            "Hint: ScoredPool.read returns the other columns."
        )


def is_finite(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return booleans (n,): whether the score and all measures of a row are finite."""
    return np.logical_and.reduce([np.isfinite(columns[name]) for name in ("score", *MEASURES)])


def _count(values: np.ndarray) -> Counter:
    found, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist())))


def _added(one: Counter, other: Counter) -> Counter:
    # Not `one + other`, which drops values that are not positive.
    return Counter({key: one[key] + other[key] for key in {**one, **other}})


def _sorted(counter: Counter) -> dict:
    return {str(key): counter[key] for key in sorted(counter)}


def _numbered(record: dict) -> Counter:
    return Counter({int(key): count for key, count in record.items()})
