"""The monitor, which compares windows of a stream with a reference in bounded memory."""

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
        value: Value of the statistic.
        p_value: Probability of a value at least as large without drift.
    """

    measure: str
    statistic: str
    value: float
    p_value: float


class Window(NamedTuple):
    """A complete window of the stream with its drift tests and alarms.

    Attributes:
        number: Number of the window, starting at 1.
        num_rows: Number of predictions in the window.
        num_invalid: Number of predictions that are NaN or infinite; the tests leave them out.
        level: A p-value below this level is an alarm.
        tests: One test per measure and statistic; empty if more than half of the rows are invalid.
    """

    number: int
    num_rows: int
    num_invalid: int
    level: float
    tests: tuple[DriftTest, ...]

    @property
    def alarms(self) -> tuple[str, ...]:
        """One sentence per alarm; empty if there is none."""
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
    """A monitor of the uncertainty of a deployed model, which needs no labels.

    Use it where a model serves predictions. Pass it every prediction, and it raises an alarm when
    the distribution of predictive entropy, confidence or mutual information differs from that on
    reference data. It reads plain arrays, such as the outputs of a SavedModel, stores counts in ten
    bins instead of the stream, and its state is JSON.

    The stream is cut into windows of equal numbers of rows, independent of the sizes of updates.
    Each complete window j = 1, 2, ... is tested with the population stability index and the
    Kolmogorov-Smirnov distance of each measure, all at the level

        alpha / (j (j + 1)) / (2 number of measures).

    The probability of any false alarm over all time is therefore at most about `alpha`, and less if
    measures are correlated. A window with a NaN or infinite prediction always raises an alarm,
    because the reference has none. As labels arrive, `calibration` tracks accuracy, likelihood and
    calibration, which cannot be derived from uncertainty without labels.

    The tests assume independent rows. Frames of one video, or the hours of a day, are not
    independent: use reference data from whole days, and windows of that length.

    Create a monitor with `from_reference`, `from_json` or `load`.

    Reference:
        The sum of 1 / (j (j + 1)) over all j is 1. Foster and Stine 2008, "alpha-investing",
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
        """Creates a monitor from predictions on data on which the model is known to do well.

        Args:
            prediction: Prediction of m independent rows that the model was not trained on, with m
                at least `window`. A `Prediction`, probabilities (m, K), or arrays by name as a
                SavedModel returns them. Of those, the probabilities `mean` (m, K), and
                `predictive_entropy`, `confidence` and `mutual_information` (m,) are read. Entropies
                are in nats. The monitor tests the measures that the reference has; for regression
                and independent labels these are entropies only.
            window: Number of rows in a window. Larger windows detect smaller drifts, but later.
            num_bins: Largest number of equal-mass bins. Bins are merged if there are ties, or if
                fewer than 20 rows of a window are expected in a bin.
            alpha: Probability of a false alarm over all windows ever tested, in (0, 1).
            half_life: Number of labeled rows after which the weight of a label in `calibration` has
                halved.

        Raises:
            ValueError: If an argument is out of range, or the reference is too small, not finite,
                or nearly constant.
        """
        check_integers(2, num_bins=num_bins)
        check_integers(1, window=window)
        _check_range("alpha", alpha, 1)
        _check_range("half_life", half_life, np.inf)
        if window < 2 * SMALLEST_EXPECTED:
            raise ValueError(
                f"Expected at least {2 * SMALLEST_EXPECTED} for `window`. Received: "
                f"window={window}. Hint: the tests need {SMALLEST_EXPECTED} rows in each of two "
                "bins; use a few hundred rows to detect smaller drifts."
            )
        values = read_measures(prediction)
        num_rows = len(next(iter(values.values())))
        if num_rows < window:
            raise ValueError(
                f"Expected at least `window`={window} rows for `prediction`. Received: {num_rows}. "
                "Hint: the sampling noise of a smaller reference would hide drift; use several "
                "times `window`."
            )
        measures = {
            name: _bins_of(name, each, num_bins, SMALLEST_EXPECTED * num_rows // window)
            for name, each in values.items()
        }
        settings = {"window": int(window), "alpha": float(alpha), "half_life": float(half_life)}
        return cls(settings, measures)

    def update(self, prediction: Any, labels: ArrayLike | None = None) -> list[Window]:
        """Adds the next rows of the stream.

        Args:
            prediction: Prediction of n >= 0 rows, in any form that `from_reference` takes.
            labels: (n,) class numbers if they are already known. Use `add_labels` for later ones.

        Returns:
            The windows that these rows complete, often none. See `Window.alarms`.

        Raises:
            ValueError: If a measure is missing, or values are out of range. The state is then
                unchanged.
        """
        values = read_measures(prediction)
        missing = [name for name in self._reference if name not in values]
        if missing:
            raise ValueError(
                f"Expected {', '.join(self._reference)}, as in the reference, in `prediction`. "
                f"Received: {', '.join(values)}. Hint: create the reference from served outputs."
            )
        if labels is not None:
            self.add_labels(prediction, labels)
        invalid = ~np.logical_and.reduce([np.isfinite(values[name]) for name in self._reference])
        window = self._settings["window"]
        window_of = (self._num_rows + np.arange(len(invalid))) // window
        num_complete = (self._num_rows + len(invalid)) // window

        def tally(bins: np.ndarray, of_rows: np.ndarray, before: ArrayLike) -> np.ndarray:
            """Counts rows by window and bin; the last window is incomplete."""
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
        """Tests W complete windows, given their counts (W, B) and numbers of invalid rows (W,)."""
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
        """Adds labels of earlier predictions, oldest first; any delay is allowed.

        Args:
            prediction: Prediction of the n rows whose labels are known: a `Prediction` of classes,
                arrays by name with `mean`, or probabilities (n, K).
            labels: (n,) class numbers.

        Raises:
            ValueError: If the arguments are not probabilities and class numbers, one per row.
        """
        probs = read_probabilities(prediction)
        checked, finite = self._labelled.check(probs, labels)
        self._labelled.add(checked, finite, len(probs) - len(checked))

    @property
    def calibration(self) -> Calibration:
        """Accuracy, likelihood and calibration on the recent labels. See `Calibration`."""
        return self._labelled.result()

    @property
    def num_windows(self) -> int:
        """The number of windows completed so far."""
        return self._num_windows

    def to_json(self) -> str:
        """Returns the whole state as JSON; a monitor from `from_json` continues bit for bit."""
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
        """Restores a monitor from a state that `to_json` returned.

        Args:
            text: The result of `to_json`.

        Raises:
            ValueError: If `text` is not such a state.
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
                f"Expected a result of `to_json` in format {_FORMAT} for `text`. "
                f"Received: {text[:40]!r}, {type(error).__name__}: {error}. "
                "Hint: create a new monitor from the reference."
            ) from error
        return monitor

    def save(self, path: str | Path) -> None:
        """Writes `to_json` to a file atomically: a power failure leaves the old or the new one."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "UncertaintyMonitor":
        """Reads a monitor from a file that `save` wrote."""
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
        ValueError: If a value is not finite, or there are fewer than two bins.
    """
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected finite {name} for the reference. Received: {(~np.isfinite(values)).sum()} "
            f"of {len(values)} rows NaN or infinite. Hint: find the cause before you use them as a "
            "reference."
        )
    edges = quantile_edges(values, num_bins, max(smallest, SMALLEST_EXPECTED))
    if len(edges) == 0:
        raise ValueError(
            f"Expected values of {name} in the reference that vary enough for two bins of "
            f"{SMALLEST_EXPECTED} rows in a window. Received: {len(values)} rows from "
            f"{values.min():g} to {values.max():g}, nearly all equal. Hint: use a larger window, "
            'or leave the measure out, as in {"mean": p.mean}.'
        )
    return {
        "edges": edges,
        "reference": np.bincount(count_in_bins(values, edges), minlength=len(edges) + 1),
    }
