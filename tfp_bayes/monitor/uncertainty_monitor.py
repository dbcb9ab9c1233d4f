"""The monitor: windows of a stream against a reference, in bounded memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.files import write_text
from tfp_bayes.monitor.drift import (
    SMALLEST_EXPECTED,
    binned_kolmogorov_smirnov,
    count_in_bins,
    population_stability_index,
    quantile_edges,
)
from tfp_bayes.monitor.labels import Calibration, LabelledStream
from tfp_bayes.monitor.measures import read_measures, read_probabilities

_FORMAT = 1
_STATISTICS = {"psi": population_stability_index, "ks": binned_kolmogorov_smirnov}


class DriftTest(NamedTuple):
    """One statistic of one measure in one window.

    Attributes:
        measure: "predictive_entropy", "confidence" or "mutual_information".
        statistic: "psi" or "ks".
        value: The statistic.
        p_value: Probability of one as large without drift.
    """

    measure: str
    statistic: str
    value: float
    p_value: float


class Window(NamedTuple):
    """A complete window of the stream, and whether it raises an alarm.

    Attributes:
        number: From 1.
        num_rows: Predictions in it.
        num_invalid: Those that are NaN or infinite; the tests are of the others.
        level: Below it a p-value is an alarm.
        tests: One for each measure and statistic; none if more than half of the rows are invalid.
    """

    number: int
    num_rows: int
    num_invalid: int
    level: float
    tests: tuple[DriftTest, ...]

    @property
    def alarms(self) -> tuple[str, ...]:
        """One sentence for each alarm; empty without."""
        drift = [
            f"{test.statistic.upper()} of {test.measure} is {test.value:.3g}, "
            f"p-value {test.p_value:.2g} below {self.level:.2g}"
            for test in self.tests
            if test.p_value < self.level
        ]
        if self.num_invalid:
            drift.append(f"{self.num_invalid} of {self.num_rows} predictions are not finite")
        return tuple(drift)


class UncertaintyMonitor:
    """A watch over the uncertainty of a deployed model, which needs no labels.

    Use it where a model answers: give it every answer, and it says when predictive entropy,
    confidence and mutual information are no longer distributed as they were on reference data. It
    keeps counts in ten bins, not the stream, reads plain arrays, such as the answers of a
    SavedModel, and its state is JSON.

    The stream is cut into windows of equally many rows, whatever the sizes of updates. Each
    complete window j = 1, 2, ... is tested by the population stability index and the
    Kolmogorov-Smirnov distance of each measure, all at the level

        alpha / (j (j + 1)) / (2 number of measures),

    so that the probability of any false alarm, ever, is at most about `alpha`, and it is less where
    measures go together. A window with a prediction that is NaN or infinite is always an alarm: the
    reference has none. As labels arrive, `calibration` follows accuracy, likelihood and
    calibration, of which uncertainty without labels says nothing.

    Rows are taken to be independent, as those of the reference are. Frames of one video, or the
    hours of a day, are not: take reference data from whole days, and windows as long.

    Make one by `from_reference`, `from_json` or `load`.

    Reference:
        The sum of 1 / (j (j + 1)) over all j is 1; Foster and Stine 2008, alpha-investing,
        J. R. Statist. Soc. B 70(2), for levels that are spent over a sequence of tests.

    Example:

    >>> from tfp_bayes.monitor import UncertaintyMonitor
    >>> rng = np.random.default_rng(0)
    >>> monitor = UncertaintyMonitor.from_reference(rng.dirichlet([9, 1, 1], 2000), window=200)
    >>> [window.alarms for window in monitor.update(rng.dirichlet([9, 1, 1], 500))]
    [(), ()]
    >>> (window,) = monitor.update(rng.dirichlet([5, 2, 2], 150))
    >>> window.number, len(window.alarms) > 0
    (3, True)
    """

    def __init__(self, settings: Mapping[str, Any], measures: Mapping[str, Mapping[str, Any]]):
        self._settings = dict(settings)
        self._edges = {name: np.array(each["edges"]) for name, each in measures.items()}
        self._reference = {name: np.array(each["reference"]) for name, each in measures.items()}
        self._counts = {name: np.zeros_like(each) for name, each in self._reference.items()}
        self._num_rows = self._num_invalid = self._num_windows = 0
        self._labelled = LabelledStream(settings["half_life"])

    @classmethod
    def from_reference(
        cls,
        prediction: Any,
        *,
        window: int = 500,
        num_bins: int = 10,
        alpha: float = 0.05,
        half_life: float = 5000,
    ) -> "UncertaintyMonitor":
        """Makes a monitor from predictions of data on which the model is known to do well.

        Args:
            prediction: Of m independent rows, at least `window`, that the model was not trained on:
                a `Prediction`, or arrays by name as a SavedModel answers, of which `mean` (m, K)
                probabilities, `predictive_entropy`, `confidence` and `mutual_information` (m,)
                are read; or probabilities (m, K). Entropies are in nats. What the reference has is
                watched. Of regression and independent labels, entropies alone are.
            window: Rows of a window. More of them show smaller drifts, later.
            num_bins: Bins of equal mass, at most; ties, and bins in which fewer than 20 rows of a
                window are expected, leave fewer.
            alpha: Probability of a false alarm, in (0, 1), over all windows there will ever be.
            half_life: Labelled rows after which the weight of a label is 1/2 in `calibration`.

        Raises:
            ValueError: If an argument is out of range, or the reference is too small, not finite,
                or the same throughout.
        """
        check_integers(2, num_bins=num_bins)
        check_integers(1, window=window)
        _check_range("alpha", alpha, 1)
        _check_range("half_life", half_life, np.inf)
        if window < 2 * SMALLEST_EXPECTED:
            raise ValueError(
                f"Expected at least {2 * SMALLEST_EXPECTED} for `window`. Received: "
                f"window={window}. Hint: the law of the tests needs {SMALLEST_EXPECTED} rows in "
                "each of two bins; some hundreds see more."
            )
        values = read_measures(prediction)
        num_rows = len(next(iter(values.values())))
        if num_rows < window:
            raise ValueError(
                f"Expected at least `window`={window} rows for `prediction`. Received: {num_rows}. "
                "Hint: with a smaller reference its own chance hides the drift; several times "
                "`window` is good."
            )
        measures = {
            name: _bins_of(name, each, num_bins, SMALLEST_EXPECTED * num_rows // window)
            for name, each in values.items()
        }
        settings = {"window": window, "alpha": float(alpha), "half_life": float(half_life)}
        return cls(settings, measures)

    def update(self, prediction: Any, labels: ArrayLike | None = None) -> list[Window]:
        """Takes the next rows of the stream.

        Args:
            prediction: Of n rows, n of at least 0, as in `from_reference`.
            labels: (n,) class numbers, where they are known at once; see `add_labels`.

        Returns:
            The windows that these rows complete, often none. See `Window.alarms`.

        Raises:
            ValueError: If a measure is missing, or values are not what they are taken for. The
                state is then as before.
        """
        values = read_measures(prediction)
        missing = [name for name in self._reference if name not in values]
        if missing:
            raise ValueError(
                f"Expected {', '.join(self._reference)}, as the reference had, in `prediction`. "
                f"Received: {', '.join(values)}. Hint: make the reference of what is served."
            )
        if labels is not None:
            self.add_labels(prediction, labels)
        invalid = ~np.logical_and.reduce([np.isfinite(values[name]) for name in self._reference])
        window = self._settings["window"]
        window_of = (self._num_rows + np.arange(len(invalid))) // window
        num_complete = (self._num_rows + len(invalid)) // window

        def tally(bins: np.ndarray, of_rows: np.ndarray, before: ArrayLike) -> np.ndarray:
            """Counts rows by window and bin; the last window is not complete."""
            num_bins = np.size(before)
            flat = (window_of * num_bins + bins)[of_rows]
            counts = np.bincount(flat, minlength=(num_complete + 1) * num_bins)
            counts = counts.reshape(num_complete + 1, num_bins)
            counts[0] += before
            return counts

        complete = {}
        for name, edges in self._edges.items():
            counts = tally(count_in_bins(values[name], edges), ~invalid, self._counts[name])
            complete[name], self._counts[name] = counts[:-1], counts[-1]
        num_invalid = tally(np.zeros(len(invalid), int), invalid, self._num_invalid)[:, 0]
        self._num_invalid = int(num_invalid[-1])
        self._num_rows = (self._num_rows + len(invalid)) % window
        return self._test(complete, num_invalid[:-1])

    def _test(self, complete: Mapping[str, np.ndarray], num_invalid: np.ndarray) -> list[Window]:
        """Tests windows (W,), given their counts (W, B) and invalid rows (W,)."""
        size = self._settings["window"]
        tested = np.flatnonzero(2 * num_invalid <= size)
        tests: list[list[DriftTest]] = [[] for _ in num_invalid]
        for name, counts in complete.items():
            for statistic, function in _STATISTICS.items():
                result = function(self._reference[name], counts[tested])
                for i, value, p_value in zip(tested, *(each.tolist() for each in result)):
                    tests[i].append(DriftTest(name, statistic, value, p_value))
        windows = []
        for i, each in enumerate(tests):
            j = self._num_windows + i + 1
            share = len(_STATISTICS) * len(self._reference)
            level = self._settings["alpha"] / (j * (j + 1)) / share
            windows.append(Window(j, size, int(num_invalid[i]), level, tuple(each)))
        self._num_windows += len(windows)
        return windows

    def add_labels(self, prediction: Any, labels: ArrayLike) -> None:
        """Takes labels of predictions that `update` has seen, however late, oldest first.

        Args:
            prediction: Of the n rows whose labels are known: a `Prediction` of classes, arrays by
                name with `mean`, or probabilities (n, K).
            labels: (n,) class numbers.

        Raises:
            ValueError: If these are not probabilities and class numbers, one a row.
        """
        probs = read_probabilities(prediction)
        checked, finite = self._labelled.check(probs, labels)
        self._labelled.add(checked, finite, len(probs) - len(checked))

    @property
    def calibration(self) -> Calibration:
        """Accuracy, likelihood and calibration on the labels of late, see `Calibration`."""
        return self._labelled.result()

    @property
    def num_windows(self) -> int:
        """Windows completed so far."""
        return self._num_windows

    def to_json(self) -> str:
        """Returns the whole state, from which `from_json` goes on to the same bits."""
        measures = {
            name: {
                "edges": self._edges[name].tolist(),
                "reference": self._reference[name].tolist(),
                "counts": self._counts[name].tolist(),
            }
            for name in self._reference
        }
        state = {
            "format": _FORMAT,
            "settings": self._settings,
            "measures": measures,
            "num_rows": self._num_rows,
            "num_invalid": self._num_invalid,
            "num_windows": self._num_windows,
            "labelled": self._labelled.get_state(),
        }
        return json.dumps(state, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "UncertaintyMonitor":
        """Makes the monitor whose state `to_json` has returned.

        Raises:
            ValueError: If it is not such a state.
        """
        try:
            state = json.loads(text)
            if state["format"] != _FORMAT:
                raise ValueError(f"format {state['format']}")
            monitor = cls(state["settings"], state["measures"])
            for name, each in state["measures"].items():
                monitor._counts[name] += np.array(each["counts"])
            monitor._num_rows = int(state["num_rows"])
            monitor._num_invalid = int(state["num_invalid"])
            monitor._num_windows = int(state["num_windows"])
            monitor._labelled.set_state(state["labelled"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"Expected what `to_json` has returned, of format {_FORMAT}, for `text`. "
                f"Received: {text[:40]!r}, {type(error).__name__}: {error}. "
                "Hint: make a new monitor from the reference."
            ) from error
        return monitor

    def save(self, path: str | Path) -> None:
        """Writes `to_json` to a file, which is the old or the new one even after a power cut."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "UncertaintyMonitor":
        """Reads a monitor that `save` has written."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def _check_range(name: str, value: float, below: float) -> None:
    if not isinstance(value, int | float | np.number) or not 0 < value < below:
        raise ValueError(
            f"Expected a number in (0, {below:g}) for `{name}`. Received: {name}={value!r}. "
            "Hint: leave it out for the default."
        )


def _bins_of(name: str, values: np.ndarray, num_bins: int, smallest: int) -> dict[str, np.ndarray]:
    """Returns edges and reference counts of one measure.

    Raises:
        ValueError: If a value is not finite, or fewer than two bins are left.
    """
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected finite {name} for the reference. Received: {(~np.isfinite(values)).sum()} "
            f"of {len(values)} rows NaN or infinite. Hint: find out why before it counts as normal."
        )
    edges = quantile_edges(values, num_bins, max(smallest, SMALLEST_EXPECTED))
    if len(edges) == 0:
        raise ValueError(
            f"Expected a reference of which a window has {SMALLEST_EXPECTED} rows or more with "
            f"another {name} than most. Received: {len(values)} rows from {values.min():g} to "
            f"{values.max():g}, nearly all alike. Hint: a larger window, or leave the measure out, "
            'as in {"mean": p.mean}.'
        )
    return {
        "edges": edges,
        "reference": np.bincount(count_in_bins(values, edges), minlength=len(edges) + 1),
    }
