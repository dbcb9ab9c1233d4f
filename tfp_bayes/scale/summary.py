"""Counts and sums over scored rows; those of parts add up exactly to those of the pool."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tfp_bayes._plumbing.bins import equal_width
from tfp_bayes._plumbing.probabilities import log_losses
from tfp_bayes.scale.sums import as_float, exact_sum

MEASURES = ("predictive_entropy", "expected_entropy", "mutual_information")
PER_NAT = 64  # bins of histograms
NUM_BINS = 15  # of confidence
_FARTHEST = 2**40  # bin of what is farther from 0


@dataclass
class Summary:
    """Counts and sums over scored rows; `a + b` is the summary of both sets of rows.

    All are integers (sums as multiples of 2^-1126, see `sums.exact_sum`), so that neither the
    partition of the rows nor the order of parts changes a bit.

    Attributes:
        num_rows: N.
        num_non_finite: Rows whose scores are NaN or infinite, which are in nothing below.
        sums: Of the score and of each measure.
        histograms: For each of these, rows by bins of 1/64, `floor(64 value)`.
        predicted: Rows by likeliest class, of a classifier.
        labelled: Sums of a labelled pool: nll; and by bins of confidence: rows, right, confidence.
        confusion: Rows by "label,predicted" of a labelled pool.
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
        """Returns the summary of some rows.

        Args:
            columns: By name, see `scoring`; "label" and "mean" together make `labelled`.
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
        """Returns plain JSON, of which `from_json` makes the same summary again."""
        record = dict(vars(self))
        record["histograms"] = {name: _sorted(each) for name, each in self.histograms.items()}
        return {k: _sorted(v) if isinstance(v, Counter) else v for k, v in record.items()}

    @classmethod
    def from_json(cls, record: dict) -> "Summary":
        """Returns the summary that was written."""
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

    # What it says.

    def mean(self, name: str) -> float:
        """Mean of "score" or of a measure over the finite rows, NaN if there are none."""
        count = self.num_rows - self.num_non_finite
        return as_float(self.sums[name]) / count if count else math.nan

    def quantile(self, name: str, probability: float) -> float:
        """Quantile of "score" or of a measure, to 1/64: the upper end of the bin that has it."""
        bins = sorted(self.histograms.get(name, {}).items())
        wanted, seen = probability * sum(count for _, count in bins), 0
        for place, count in bins:
            seen += count
            if seen >= wanted:
                return (place + 1) / PER_NAT
        return math.nan

    @property
    def nll(self) -> float:
        """Mean negative log likelihood of the labels in nats; NaN without labels."""
        return as_float(self.labelled["nll"]) / self._num_labelled if self.labelled else math.nan

    @property
    def accuracy(self) -> float:
        """Share of labels that are the likeliest class; NaN without labels."""
        if not self.labelled:
            return math.nan
        return sum(self.labelled[f"right {b}"] for b in range(NUM_BINS)) / self._num_labelled

    @property
    def expected_calibration_error(self) -> float:
        """Mean gap of confidence and accuracy over 15 bins of equal width; NaN without labels.

        See `metrics.expected_calibration_error`.
        """
        if not self.labelled:
            return math.nan
        gaps = (
            abs(self.labelled[f"right {b}"] - as_float(self.labelled[f"confidence {b}"]))
            for b in range(NUM_BINS)
        )
        return math.fsum(gaps) / self._num_labelled

    def confusion_matrix(self, num_classes: int) -> np.ndarray:
        """Returns (K, K) counts: row the label, column the likeliest class."""
        matrix = np.zeros((num_classes, num_classes), "int64")
        for pair, count in self.confusion.items():
            label, predicted = map(int, pair.split(","))
            matrix[label, predicted] = count
        return matrix

    @property
    def _num_labelled(self) -> int:
        return sum(self.labelled[f"rows {b}"] for b in range(NUM_BINS))


def is_finite(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Returns (n,) whether score and measures of rows are all finite."""
    return np.logical_and.reduce([np.isfinite(columns[name]) for name in ("score", *MEASURES)])


def _count(values: np.ndarray) -> Counter:
    found, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist())))


def _added(one: Counter, other: Counter) -> Counter:
    # Not `+`, which drops what is not positive.
    return Counter({key: one[key] + other[key] for key in {**one, **other}})


def _sorted(counter: Counter) -> dict:
    return {str(key): counter[key] for key in sorted(counter)}


def _numbered(record: dict) -> Counter:
    return Counter({int(key): count for key, count in record.items()})
