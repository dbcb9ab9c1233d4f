"""The result of `evaluate`: estimates, differences, and the table as Markdown, CSV and HTML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfp_bayes._plumbing.files import write_csv, write_text
from tfp_bayes.evaluation.table import (
    Estimate,
    Metric,
    bootstrap_interval,
    difference_interval,
    exact_interval,
)

if TYPE_CHECKING:
    from tfp_bayes.evaluation.pictures import Pictured

_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}
_FIELDS = (
    "model",
    "metric",
    "value",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
)


@dataclass(frozen=True)
class Evaluation:
    """Every metric of one or several models. See `evaluate`.

    Attributes:
        models: Names of the models; differences are relative to the first.
        metrics: Rows of the table by name, such as "nll".
        values: Values by model and metric; NaN where a metric is undefined for a model.
        draws: Values (B,) of the bootstrap resamples by model and metric. All models share the
            resamples.
        exact: Metrics that are shares of independent examples, with exact intervals.
        num_rows: Number of examples N.
        notes: Sentences that explain the table.
        pictured: The data that pictures are drawn from.
    """

    models: tuple[str, ...]
    metrics: Mapping[str, Metric]
    values: Mapping[str, Mapping[str, float]]
    draws: Mapping[str, Mapping[str, np.ndarray]] = field(repr=False)
    exact: frozenset[str]
    num_rows: int
    notes: tuple[str, ...]
    pictured: "Pictured" = field(repr=False)

    def estimate(self, metric: str, model: str | None = None) -> Estimate:
        """Returns a metric of a model with its interval.

        Args:
            metric: Name of the metric, one of `metrics`.
            model: Name of the model. None is the first.

        Raises:
            ValueError: If there is no such metric or model.
        """
        model = self._check(metric, model)
        value = self.values[model][metric]
        if metric in self.exact:
            return exact_interval(value, self.num_rows)
        draws = self.draws[model].get(metric)
        if draws is None:
            return Estimate(value)
        floor = self.values[model].get(f"{metric}_floor", float("nan"))
        return bootstrap_interval(value, draws, self.metrics[metric].biased, floor)

    def difference(self, metric: str, model: str, reference: str | None = None) -> Estimate:
        """Returns a metric of a model minus that of a reference, with its paired interval.

        An interval without 0 is evidence of a difference in that one metric. Among twenty metrics
        without a difference, one such interval is expected by chance.

        Args:
            metric: Name of the metric, one of `metrics`.
            model: Name of the model.
            reference: Name of the model to subtract. None is the first.

        Raises:
            ValueError: If there is no such metric or model.
        """
        model, reference = self._check(metric, model), self._check(metric, reference)
        value = self.values[model][metric] - self.values[reference][metric]
        pair = self.draws[model].get(metric), self.draws[reference].get(metric)
        if pair[0] is None or pair[1] is None:
            return Estimate(value)
        return difference_interval(value, pair[0] - pair[1], self.metrics[metric].biased)

    def table(self) -> str:
        """Returns the table as Markdown, with notes below it.

        Arrows show which direction is better. Every model but the first has a column with its
        difference from the first.
        """
        header, rows = self.cells()
        lines = [header, ["---"] * len(header), *rows]
        text = ["| " + " | ".join(map(_escape, line)) + " |" for line in lines]
        return "\n".join([*text, "", *self.notes]) + "\n"

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Returns the header and the rows of the table as text."""
        header = ["metric", *self.models]
        header += [f"{name} - {self.models[0]}" for name in self.models[1:]]
        rows = []
        for key, metric in self.metrics.items():
            row = [metric.title + _ARROWS[metric.better]]
            row += [_cell(self.estimate(key, name)) for name in self.models]
            row += [_cell(self.difference(key, name), "+") for name in self.models[1:]]
            rows.append(row)
        return header, rows

    def to_csv(self, path: str | Path) -> None:
        """Writes one row per model and metric, with its difference from the first model.

        Undefined values are empty cells.

        Args:
            path: Path of the CSV file.
        """
        rows = [
            [name, key, *map(_number, self.estimate(key, name)), *self._difference_cells(key, name)]
            for name in self.models
            for key in self.metrics
        ]
        write_csv(Path(path), _FIELDS, rows)

    def to_html(self, path: str | Path) -> None:
        """Writes the table and the pictures as one HTML page that needs no network.

        Args:
            path: Path of the HTML file.
        """
        from tfp_bayes.evaluation.page import page  # Matplotlib is slow to import

        write_text(Path(path), page(self))

    def _difference_cells(self, metric: str, model: str) -> list[str]:
        if model == self.models[0]:
            return ["", "", ""]
        return [_number(each) for each in self.difference(metric, model)]

    def _check(self, metric: str, model: str | None) -> str:
        model = self.models[0] if model is None else model
        for value, known, name in (
            (metric, list(self.metrics), "metric"),
            (model, list(self.models), "model"),
        ):
            if value not in known:
                raise ValueError(
                    f"Expected one of {known} for `{name}`. Received: {name}={value!r}. "
                    "Hint: report.table() shows all of them."
                )
        return model


def _number(value: float) -> str:
    return f"{value:.10g}" if np.isfinite(value) else ""


def _cell(estimate: Estimate, sign: str = "") -> str:
    if not np.isfinite(estimate.value):
        return "-"
    if not np.isfinite(estimate.low):
        return f"{estimate.value:{sign}.4g}"
    # Enough decimals to show two significant digits of the interval's width.
    width = estimate.high - estimate.low
    decimals = int(np.clip(1 - np.floor(np.log10(width)), 1, 6)) if width > 0 else 4
    value, low, high = (f"{each:{sign}.{decimals}f}" for each in estimate)
    return f"{value} [{low}, {high}]"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
