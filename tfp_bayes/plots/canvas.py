"""Shared parts of all plots: colors, checks of arguments, and a legend that covers no data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from numpy.typing import ArrayLike

# Okabe and Ito's colors, which the color-blind tell apart, with gray in the place of yellow.
COLORS = ("#0072b2", "#d55e00", "#009e73", "black", "#cc79a7", "#56b4e9", "#e69f00", "gray")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
RIGHT, WRONG = COLORS[:2]

_LEGEND = "_legend"
_CURVE = "curve"


def check_axes(ax: Any) -> None:
    """Raises ValueError unless `ax` is one plane Axes of Matplotlib."""
    if not isinstance(ax, Axes) or ax.name != "rectilinear":
        received = ax.name if isinstance(ax, Axes) else type(ax).__name__
        raise ValueError(
            f"Expected rectilinear Axes of Matplotlib for `ax`. Received: {received}. "
            "Hint: figure, ax = plt.subplots(); of several, one at a time."
        )


def as_numbers(values: ArrayLike, name: str, num_axes: int = 1) -> np.ndarray:
    """Returns finite numbers as float64, with a given number of axes and at least one entry.

    A column (N, 1) is read as (N,).

    Raises:
        ValueError: If they are of another shape, not numbers, NaN or infinite.
    """
    values = np.asarray(values)
    if num_axes == 1 and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != num_axes or values.size == 0 or values.dtype.kind not in "fiub":
        raise ValueError(
            f"Expected at least one number, in an array of {num_axes} axes, for `{name}`. "
            f"Received: {values.dtype} of shape {values.shape}. "
            "Hint: select with [..., 0] or join with reshape(-1) what has more axes."
        )
    values = values.astype("float64")
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected finite numbers for `{name}`. Received: {(~np.isfinite(values)).sum()} of "
            f"{values.size} are NaN or infinite. Hint: leave those out, and say so."
        )
    return values


def as_errors(errors: ArrayLike, name: str = "errors") -> np.ndarray:
    """Returns errors (N,), 0 or 1, as bool."""
    numbers = as_numbers(errors, name)
    if not np.isin(numbers, (0, 1)).all():
        raise ValueError(
            f"Expected 0 or 1 for `{name}`. Received: values from {numbers.min():.4g} to "
            f"{numbers.max():.4g}. Hint: p.mean.argmax(-1) != y_true."
        )
    return numbers.astype(bool)


def check_same_length(**arrays: np.ndarray) -> None:
    """Raises ValueError unless arrays have equally many rows."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"Expected one row an example for each of {', '.join(f'`{n}`' for n in lengths)}. "
            f"Received: {lengths} rows. Hint: all of the same examples, in the same order."
        )


def next_style(ax: Axes) -> dict[str, Any]:
    """Returns color and marker of the next curve, and the mark by which it is counted."""
    drawn = sum(line.get_gid() == _CURVE for line in ax.lines) % len(COLORS)
    return {"color": COLORS[drawn], "marker": MARKERS[drawn], "gid": _CURVE}


def legend_above(ax: Axes, title: str | None = None, gap: float = 0.04) -> None:
    """Puts the legend of all labeled artists above the frame, in the place of an earlier one.

    It lies in a child of the axes, which a title makes way for, and covers no data.

    Args:
        ax: Where the artists are.
        title: Text of its first line.
        gap: Inches between frame and legend.
    """
    for child in list(ax.child_axes):
        if child.get_label() == _LEGEND:
            child.remove()
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    font = 8.5  # points; the rest is in units of it
    entry = font / 72 * (3.5 + 0.55 * max(map(len, labels)))
    width = ax.get_window_extent().width / ax.figure.dpi
    columns = int(np.clip(width // entry, 1, len(labels)))
    num_lines = -(-len(labels) // columns) + (title is not None)
    top = ScaledTranslation(0, 1, ax.transAxes)  # type: ignore[arg-type]
    child = ax.inset_axes(
        (0, gap, 1, num_lines * font / 72 * 1.45),
        transform=blended_transform_factory(ax.transAxes, ax.figure.dpi_scale_trans + top),
        label=_LEGEND,
    )
    child.set_axis_off()
    child.legend(
        handles,
        labels,
        title=title,
        loc="lower left",
        ncols=columns,
        fontsize=font,
        title_fontsize=font,
        alignment="left",
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        labelspacing=0.3,
        columnspacing=1.2,
    )


def named(values: Any, name: str) -> Mapping[str, Any]:
    """Returns a mapping as it is, after checking that it has entries with names."""
    if not isinstance(values, Mapping) or not values or not all(isinstance(k, str) for k in values):
        raise ValueError(
            f"Expected values by name, in a dictionary, for `{name}`. "
            f"Received: {type(values).__name__}. Hint: {{'its name': ...}}; legends show the names."
        )
    return values


def class_name(k: int, class_names: Sequence[str] | None) -> str:
    """Returns what a class is called; without names its number."""
    return str(k) if class_names is None else class_names[k]
