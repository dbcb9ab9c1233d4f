"""Shared parts of all plots: colors, argument checks, and a legend outside of the data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from numpy.typing import ArrayLike

# The color-blind safe palette of Okabe and Ito, with gray instead of yellow.
COLORS = ("#0072b2", "#d55e00", "#009e73", "black", "#cc79a7", "#56b4e9", "#e69f00", "gray")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
RIGHT, WRONG = COLORS[:2]

_LEGEND = "_legend"
_CURVE = "curve"


def check_axes(ax: Any) -> None:
    """Raises ValueError unless `ax` is a single rectilinear Axes of Matplotlib."""
    if not isinstance(ax, Axes) or ax.name != "rectilinear":
        received = ax.name if isinstance(ax, Axes) else type(ax).__name__
        raise ValueError(
            f"Expected rectilinear Axes of Matplotlib for `ax`. Received: {received}. "
            "Hint: figure, ax = plt.subplots(); pass a single one if there are several."
        )


def as_numbers(values: ArrayLike, name: str, num_axes: int = 1) -> np.ndarray:
    """Returns finite numbers as a non-empty float64 array with a given number of axes.

    A column (N, 1) is read as (N,).

    Raises:
        ValueError: If `values` is empty, has another number of axes, or is not finite numbers.
    """
    values = np.asarray(values)
    if num_axes == 1 and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != num_axes or values.size == 0 or values.dtype.kind not in "fiub":
        raise ValueError(
            f"Expected at least one number, in an array of {num_axes} axes, for `{name}`. "
            f"Received: {values.dtype} of shape {values.shape}. "
            "Hint: if there are more axes, select with [..., 0] or join with reshape(-1)."
        )
    values = values.astype("float64")
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected finite numbers for `{name}`. Received: {(~np.isfinite(values)).sum()} of "
            f"{values.size} are NaN or infinite. Hint: drop those, and report that you did."
        )
    return values


def as_errors(errors: ArrayLike, name: str = "errors") -> np.ndarray:
    """Returns errors (N,) of 0 or 1 as bool."""
    numbers = as_numbers(errors, name)
    if not np.isin(numbers, (0, 1)).all():
        raise ValueError(
            f"Expected 0 or 1 for `{name}`. Received: values from {numbers.min():.4g} to "
            f"{numbers.max():.4g}. Hint: pass p.mean.argmax(-1) != y_true."
        )
    return numbers.astype(bool)


def check_same_length(**arrays: np.ndarray) -> None:
    """Raises ValueError unless all arrays have the same number of rows."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"Expected one row per example for each of {', '.join(f'`{n}`' for n in lengths)}. "
            f"Received: {lengths} rows. Hint: pass the same examples in the same order."
        )


def next_style(ax: Axes) -> dict[str, Any]:
    """Returns color and marker of the next curve, and the gid by which curves are counted."""
    drawn = sum(line.get_gid() == _CURVE for line in ax.lines) % len(COLORS)
    return {"color": COLORS[drawn], "marker": MARKERS[drawn], "gid": _CURVE}


def legend_above(ax: Axes, title: str | None = None, gap: float = 0.04) -> None:
    """Puts a legend of all labeled artists above the frame, replacing an earlier one.

    The legend is in a child of the axes, so a title moves above it and it covers no data.

    Args:
        ax: Axes with the artists.
        title: Text of the first line.
        gap: Inches between frame and legend.
    """
    for child in list(ax.child_axes):
        if child.get_label() == _LEGEND:
            child.remove()
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    font = 8.5  # points; the other lengths are multiples of it
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
    """Returns a mapping unchanged, after checking that it is not empty and its keys are strings."""
    if not isinstance(values, Mapping) or not values or not all(isinstance(k, str) for k in values):
        raise ValueError(
            f"Expected values by name, in a dictionary, for `{name}`. "
            f"Received: {type(values).__name__}. Hint: pass {{'a name': ...}}; legends show names."
        )
    return values


def class_name(k: int, class_names: Sequence[str] | None) -> str:
    """Returns the name of a class, or its number if there are no names."""
    return str(k) if class_names is None else class_names[k]
