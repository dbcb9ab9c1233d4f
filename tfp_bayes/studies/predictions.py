"""Predictions of many images as a table and a contact sheet, the most uncertain first."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tfp_bayes._plumbing.files import write_csv, write_json
from tfp_bayes._plumbing.images import draw_image
from tfp_bayes._plumbing.score_names import UNCERTAINTY_SCORES
from tfp_bayes.datasets import ImageFiles
from tfp_bayes.prediction import Prediction

FIELDS = (
    "file",
    "class",
    "confidence",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
)
CLASS_NAMES = "class_names.json"  # beside a model: a list of K strings
_COLUMNS, _SHOWN = 6, 24
_WIDTH, _LINES = 20, 2  # characters and lines of a file name below its image


def write_class_names(folder: Path, class_names: Sequence[str]) -> None:
    """Write the names of the classes into the folder of a model."""
    write_json(folder / CLASS_NAMES, list(class_names))


def read_class_names(folder: Path, num_classes: int) -> tuple[list[str], bool]:
    """Read the names of the classes from the folder of a model.

    Returns:
        K names, and whether they come from a file. Without a file, they are the numbers of the
        classes.

    Raises:
        ValueError: If the file is not a list of K different strings.
    """
    names = known_class_names(folder)
    if names is None:
        return [str(k) for k in range(num_classes)], False
    check_names_of_outputs(names, num_classes, str(folder / CLASS_NAMES))
    return names, True


def known_class_names(folder: Path) -> list[str] | None:
    """Return the names in the folder of a model, [] for a damaged file, or None without a file."""
    path = folder / CLASS_NAMES
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return []
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list else []


def check_names_of_outputs(names: Sequence[str], num_classes: int, where: str) -> None:
    """Raise ValueError unless there is a different, nonempty name for each output of a model."""
    if len(set(names)) != num_classes or len(names) != num_classes or "" in names:
        raise ValueError(
            f"Expected {num_classes} different names, one for each output of the model, in {where}."
            f" Received: {list(names)}. Hint: list them in the order of the outputs."
        )


def order_by_doubt(prediction: Prediction, names: Sequence[str], doubt: str) -> np.ndarray:
    """Return the rows (N,) sorted from most to least uncertain, and by name among equals.

    Args:
        prediction: Prediction of N examples.
        names: N names of the examples.
        doubt: Score by which to sort, one of `UNCERTAINTY_SCORES`. Entropies are sorted in
            descending order, "confidence" in ascending order.
    """
    score = prediction.mean.max(-1) if doubt == "confidence" else -getattr(prediction, doubt)
    return np.lexsort((np.asarray(names), score))


def write_predictions(
    path: Path,
    names: Sequence[str],
    prediction: Prediction,
    class_names: Sequence[str],
    doubt: str = UNCERTAINTY_SCORES[0],
) -> None:
    """Write a CSV table with one row for each example, the most uncertain first.

    Entropies are in nats. The file is written atomically.

    Args:
        path: File to write.
        names: N names of the examples.
        prediction: Prediction of N examples, with likelihood "categorical".
        class_names: K names of the classes.
        doubt: Score by which to sort; see `order_by_doubt`.
    """
    best = prediction.mean.argmax(-1)
    measures = [getattr(prediction, name) for name in FIELDS[3:]]
    rows = (
        [
            names[i],
            class_names[best[i]],
            *(f"{value[i]:.6g}" for value in (prediction.mean.max(-1), *measures)),
        ]
        for i in order_by_doubt(prediction, names, doubt)
    )
    write_csv(path, FIELDS, rows)


def plot_least_certain(
    images: np.ndarray | ImageFiles,
    names: Sequence[str],
    prediction: Prediction,
    class_names: Sequence[str],
    doubt: str = UNCERTAINTY_SCORES[0],
) -> Figure:
    """Draw a contact sheet of up to 24 images, the most uncertain ones.

    Args:
        images: Images (N, H, W, C), in memory or in files.
        names: N names of the images.
        prediction: Prediction of N examples, with likelihood "categorical".
        class_names: K names of the classes.
        doubt: Score by which to sort; see `order_by_doubt`.
    """
    order = order_by_doubt(prediction, names, doubt)[:_SHOWN]
    rows = max(-(-len(order) // _COLUMNS), 1)
    figure = Figure(figsize=(1.8 * _COLUMNS, 2.3 * rows + 0.4), layout="constrained")
    figure.suptitle(
        f"Least certain by {doubt.replace('_', ' ')}: class and confidence", fontsize=10
    )
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, i in zip(grid, order):
        draw_image(axes, np.asarray(images[int(i)]))
        best = int(prediction.mean[i].argmax())
        title = f"{class_names[best]}, {prediction.mean[i, best]:.0%}"
        axes.set_title(_literal(textwrap.shorten(title, 26, placeholder="...")), fontsize=8)
        lines = textwrap.wrap(names[i], _WIDTH)[-_LINES:]  # the end of a path is most informative
        axes.text(
            *(0.5, -0.04, _literal("\n".join(lines))),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=6,
        )
    return figure


def _literal(text: str) -> str:
    """Escape dollar signs, which Matplotlib would interpret as formulas."""
    return text.replace("$", r"\$")
