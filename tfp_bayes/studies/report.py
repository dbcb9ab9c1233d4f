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
    """Write history.csv, acquired.csv, learning_curve.png and acquired.png into `folder`.

    Call it after each round. Each file is replaced atomically, so a reader never sees an incomplete
    one.

    Args:
        learner: Learner with at least one round of history.
        folder: Folder to write to. It is created if it does not exist.
        class_names: K names of the classes for titles of images. None shows the class numbers.
        pictures: Whether to draw the two plots.
        beside: Other histories to draw with that of the learner, by name of the method.
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
    """Write one row for each round."""
    fields = [field.name for field in dataclasses.fields(Round)]
    write_csv(path, fields, [dataclasses.astuple(row) for row in history])


def read_history(path: Path) -> list[Round]:
    """Return the rounds that `write_history` wrote."""
    with path.open(newline="") as file:
        return [read_round(row) for row in csv.DictReader(file)]


def read_round(row: dict[str, str]) -> Round:
    """Return the round in a row of a table."""
    types = get_type_hints(Round)
    return Round(**{name: types[name](value) for name, value in row.items()})


def acquisition_order(learner: ActiveLearner) -> np.ndarray:
    """Return the acquired indices, sorted by round and then by descending score."""
    acquired = np.flatnonzero(learner.pool.acquired_at > 0)
    scores, rounds = learner.pool.scores[acquired], learner.pool.acquired_at[acquired]
    return acquired[np.lexsort((-scores, rounds))]


def plot_learning_curves(histories: Mapping[str, Sequence[Round]]) -> Figure:
    """Draw test accuracy against acquired examples, with one line for each history."""
    figure, axes = learning_curve_axes()
    for name, history in histories.items():
        axes.plot(
            [row.num_acquired for row in history],
            [100 * row.test_accuracy for row in history],
            markersize=4,
            label=name,
        )
    figure.legend(loc="outside upper center", ncols=4)  # inside, it would cover curves
    return figure


def learning_curve_axes() -> tuple[Figure, Axes]:
    """Return a figure with axes for test accuracy in percent, with the reported levels marked."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLORS, marker=MARKERS)
    axes.set(xlabel="acquired examples, beyond the initial set", ylabel="test accuracy (%)")
    for error in (10, 5):
        axes.axhline(100 - error, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{error} % error",
            (0.01, 100 - error),  # at the left, where curves are far below
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
    """Draw the acquired images with label and score, one row per round."""
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
