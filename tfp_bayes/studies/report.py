"""Reports of a run: tables and plots."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_type_hints

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfp_bayes._plumbing.files import write_csv, write_png
from tfp_bayes._plumbing.images import draw_image
from tfp_bayes.active.learner import ActiveLearner
from tfp_bayes.active.round import Round
from tfp_bayes.plots.canvas import COLORS, MARKERS


def write_report(
    learner: ActiveLearner,
    folder: str | Path,
    class_names: Sequence[str] | None = None,
    pictures: bool = True,
    beside: Mapping[str, Sequence[Round]] | None = None,
) -> None:
    """Writes history.csv, acquired.csv, learning_curve.png and acquired.png into `folder`.

    Each file is replaced at once, so a reader never sees half of it; call it after each round.

    Args:
        learner: A learner with at least one round of history.
        folder: Where to write, made if it does not exist.
        class_names: K names for the pictures' titles; None shows the class numbers.
        pictures: Whether to draw the two plots.
        beside: Histories to draw with the learner's, by name of the method.
    """
    folder = Path(folder)
    write_history(folder / "history.csv", learner.history)
    order, pool = acquisition_order(learner), learner.pool
    write_csv(
        folder / "acquired.csv",
        ["round", "index", "label", "score"],
        [(pool.acquired_at[i], i, pool.labels[i], pool.scores[i]) for i in order.tolist()],
    )
    if not pictures:
        return
    histories = {learner.query.method: learner.history, **(beside or {})}
    write_png(folder / "learning_curve.png", plot_learning_curves(histories))
    if len(order) and learner.rows(order[:1]).ndim == 4:
        write_png(folder / "acquired.png", plot_acquired(learner, class_names))


def write_history(path: Path, history: Sequence[Round]) -> None:
    """Writes one row for each round."""
    fields = [field.name for field in dataclasses.fields(Round)]
    write_csv(path, fields, [dataclasses.astuple(row) for row in history])


def read_history(path: Path) -> list[Round]:
    """Returns the rounds that `write_history` wrote."""
    with path.open(newline="") as file:
        return [read_round(row) for row in csv.DictReader(file)]


def read_round(row: dict[str, str]) -> Round:
    """Returns a round from its cells."""
    types = get_type_hints(Round)
    return Round(**{name: types[name](value) for name, value in row.items()})


def acquisition_order(learner: ActiveLearner) -> np.ndarray:
    """Returns the acquired indices, by round and then by falling score."""
    acquired = np.flatnonzero(learner.pool.acquired_at > 0)
    scores, rounds = learner.pool.scores[acquired], learner.pool.acquired_at[acquired]
    return acquired[np.lexsort((-scores, rounds))]


def plot_learning_curves(histories: Mapping[str, Sequence[Round]]) -> Figure:
    """Draws test accuracy against acquired examples, one line for each named history."""
    figure, axes = learning_curve_axes()
    for name, history in histories.items():
        axes.plot(
            [row.num_acquired for row in history],
            [100 * row.test_accuracy for row in history],
            markersize=4,
            label=name,
        )
    figure.legend(loc="outside upper center", ncols=4)  # inside it would cover curves
    return figure


def learning_curve_axes() -> tuple[Figure, Axes]:
    """Returns axes for test accuracy in per cent, with the levels that are reported marked."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLORS, marker=MARKERS)
    axes.set(xlabel="acquired examples, beyond the initial set", ylabel="test accuracy (%)")
    for error in (10, 5):
        axes.axhline(100 - error, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{error} % error",
            (0.01, 100 - error),  # curves are low at the left
            xycoords=("axes fraction", "data"),
            va="bottom",
            fontsize=8,
            color="grey",
        )
    axes.grid(alpha=0.3)
    return figure, axes


def plot_acquired(
    learner: ActiveLearner, class_names: Sequence[str] | None = None, max_rounds: int = 12
) -> Figure:
    """Draws the images that were acquired, one row a round, with label and score."""
    rounds = np.unique(learner.pool.acquired_at[learner.pool.acquired_at > 0])[:max_rounds]
    order = acquisition_order(learner)
    columns = max(int(np.count_nonzero(learner.pool.acquired_at == r)) for r in rounds)
    figure = Figure(figsize=(1.05 * columns + 0.8, 1.3 * len(rounds) + 0.6), layout="constrained")
    figure.suptitle(f"Acquired by {learner.query.method}: label and score", fontsize=10)
    grid = figure.subplots(len(rounds), columns, squeeze=False)
    for row, number in zip(grid, rounds):
        for axes in row:
            axes.set_axis_off()
        for axes, i in zip(row, order[learner.pool.acquired_at[order] == number]):
            draw_image(axes, learner.rows(np.array([i]))[0])
            label = learner.labels[i]
            name = label if class_names is None else class_names[label]
            axes.set_title(f"{name}: {learner.pool.scores[i]:.2f}", fontsize=8)
        row[0].text(
            -0.15,
            0.5,
            f"round {number}",
            transform=row[0].transAxes,
            rotation=90,
            va="center",
            ha="right",
            fontsize=8,
        )
    return figure
