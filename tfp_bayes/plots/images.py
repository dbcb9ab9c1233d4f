"""Images with the uncertainty of their predictions."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.probabilities import as_labelled
from tfp_bayes.plots.canvas import (
    WRONG,
    as_numbers,
    check_axes,
    check_same_length,
    class_name,
    named,
)
from tfp_bayes.prediction import Prediction

# Lengths in units of the width of an image.
_MARGIN = 0.08  # around an image
_CAPTION, _LONG_CAPTION = 0.45, 0.65  # height of a caption with two lines and with three
_EDGE = 0.02  # around the whole plot, for the lines of frames


def certain_and_uncertain_images(
    images: ArrayLike,
    probs: ArrayLike | Prediction,
    uncertainty: ArrayLike,
    y_true: ArrayLike | None = None,
    *,
    ax: Axes,
    num_images: int = 8,
    class_names: Sequence[str] | None = None,
) -> Axes:
    """Draws the images of lowest uncertainty above those of highest, and marks wrong predictions.

    Use it to see what a model finds difficult. The caption of an image is the predicted class and
    the uncertainty; a wrong prediction also has the label and a thick frame. Allow a width of 1.25
    inches per image and a height of 2.5 inches for both rows, or 3 inches with class names.

    Args:
        images: (N, H, W), (N, H, W, 1) or (N, H, W, 3); colors are in [0, 1] or uint8.
        probs: (N, K) predictive mean, or the `Prediction`.
        uncertainty: (N,) uncertainties, higher where the model is less sure, such as
            `p.mutual_information` in nats. Ties keep the order of the examples.
        y_true: (N,) integer labels. None marks nothing.
        ax: Axes to draw on; its frame and ticks are removed.
        num_images: Number of images in each row, at most N.
        class_names: K names. None shows class numbers.

    Returns:
        `ax`.

    Raises:
        ValueError: If shapes do not match, or values are not finite.

    Example:

    >>> from matplotlib.figure import Figure
    >>> images, probs = np.zeros([3, 8, 8, 1]), [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]
    >>> ax = tfp_bayes.plots.certain_and_uncertain_images(
    ...     images, probs, [0.1, 0.7, 0.3], ax=Figure().subplots(), num_images=2
    ... )
    >>> len(ax.images)
    4
    """
    check_axes(ax)
    check_integers(1, num_images=num_images)
    images = _as_images(images, "images")
    probs = np.asarray(probs.mean if isinstance(probs, Prediction) else probs)
    labels, probs = as_labelled(np.zeros(len(probs), "int64") if y_true is None else y_true, probs)
    uncertainty = as_numbers(uncertainty, "uncertainty")
    check_same_length(images=images, probs=probs, uncertainty=uncertainty)
    if class_names is not None and len(class_names) != probs.shape[1]:
        raise ValueError(
            f"Expected {probs.shape[1]} names for `class_names`. Received: {len(class_names)}. "
            "Hint: give one per class, in the order of the probabilities."
        )
    order = np.argsort(uncertainty, kind="stable")
    most = np.argsort(-uncertainty, kind="stable")
    height = images.shape[1] / images.shape[2]
    caption, between = (_CAPTION, ", ") if class_names is None else (_LONG_CAPTION, ",\n")
    pitch = height + caption
    for row, (name, rows) in enumerate({"most certain": order, "least certain": most}.items()):
        top = row * pitch
        ax.text(-0.15, top + height / 2, name, rotation=90, ha="right", va="center", fontsize=9)
        for column, i in enumerate(rows[:num_images]):
            left = column * (1 + _MARGIN)
            _draw(ax, images[i], left, top, height)
            guess = class_name(int(probs[i].argmax()), class_names)
            wrong = y_true is not None and probs[i].argmax() != labels[i]
            if wrong:
                guess = f"{guess}{between}not {class_name(int(labels[i]), class_names)}"
                frame = Rectangle((left, top), 1, height, fill=False, ec=WRONG, lw=3, zorder=3)
                ax.add_patch(frame)
            ax.text(
                left + 0.5,
                top - 0.04,
                f"{guess}\n{uncertainty[i]:.2g}",
                ha="center",
                va="bottom",
                fontsize=8,
                color=WRONG if wrong else "black",
                weight="bold" if wrong else "normal",
            )
    shown = min(num_images, len(images))
    _frame(ax, -0.3, shown * (1 + _MARGIN) - _MARGIN, -caption, pitch + height)
    return ax


def uncertainty_maps(
    image: ArrayLike, maps: Mapping[str, ArrayLike] | Prediction, *, ax: Axes
) -> Axes:
    """Draws an image with maps of its per-pixel uncertainty beside it.

    Use it to see where in an image a dense prediction is uncertain. Each map has its own color bar
    below. Allow a width of two inches per panel.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3); colors are in [0, 1] or uint8.
        maps: (H, W) maps by name and unit, such as `{"mutual information (nats)": ...}`. Or the
            `Prediction` of this one image, which draws entropy and mutual information for classes,
            and the aleatoric and epistemic standard deviations for one real target.
        ax: Axes to draw on; its frame and ticks are removed.

    Returns:
        `ax`.

    Raises:
        ValueError: If shapes do not match, values are not finite, or the prediction has several
            images or several real targets.

    Example:

    >>> from matplotlib.figure import Figure
    >>> ax = tfp_bayes.plots.uncertainty_maps(
    ...     np.zeros([8, 8, 3]), {"entropy (nats)": np.eye(8)}, ax=Figure().subplots()
    ... )
    >>> [image.get_array().shape for image in ax.images]
    [(8, 8, 3), (8, 8)]
    """
    check_axes(ax)
    picture = _as_images(np.asarray(image)[None], "image")[0]
    maps = _maps_of(maps) if isinstance(maps, Prediction) else named(maps, "maps")
    height = picture.shape[0] / picture.shape[1]
    step = 1 + 2 * _MARGIN
    bottom = height + 0.12  # leaves room for the color bars
    whole = bottom + 2 * _EDGE
    _draw(ax, picture, 0, 0, height)
    for panel, (name, values) in enumerate(maps.items(), start=1):
        values = as_numbers(values, f"maps[{name!r}]", num_axes=2)
        if values.shape != picture.shape[:2]:
            raise ValueError(
                f"Expected {picture.shape[:2]} for `maps[{name!r}]`, one value per pixel. "
                f"Received: shape {values.shape}. Hint: pass p.mutual_information[i] for image i."
            )
        left = panel * step
        drawn = _draw(ax, values, left, 0, height, cmap="viridis")
        drawn.set_clim(vmin=min(0.0, values.min()))
        frame = (left, 0.02 / whole, 1, 0.05 / whole)
        below = ax.inset_axes(frame, transform=ax.get_xaxis_transform())
        bar = ax.figure.colorbar(drawn, cax=below, orientation="horizontal")
        bar.ax.locator_params(nbins=3)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(name, fontsize=9)
    _frame(ax, 0, (len(maps) + 1) * step - 2 * _MARGIN, 0, bottom)
    return ax


def _maps_of(prediction: Prediction) -> dict[str, np.ndarray]:
    """Returns the maps (H, W) of one image."""
    if prediction.mean.ndim != 4 or len(prediction) != 1:
        raise ValueError(
            "Expected a prediction of the pixels of one image for `maps`. "
            f"Received: mean of shape {prediction.mean.shape}. Hint: pass p[[i]] for image i."
        )
    if prediction.likelihood == "normal":
        if prediction.mean.shape[-1] != 1:
            raise ValueError(
                f"Expected one real target for `maps`. Received: {prediction.mean.shape[-1]} "
                "targets. Hint: pass {name: np.sqrt(p.variance[0, ..., k])} for target k."
            )
        return {
            f"{name} std": np.sqrt(getattr(prediction, f"{name}_variance")[0, ..., 0])
            for name in ("aleatoric", "epistemic")
        }
    return {
        "predictive entropy (nats)": prediction.predictive_entropy[0],
        "mutual information (nats)": prediction.mutual_information[0],
    }


def _as_images(images: ArrayLike, name: str) -> np.ndarray:
    """Returns images (N, H, W) or (N, H, W, 3) that Matplotlib draws without conversion."""
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or images.size == 0 or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(
            f"Expected images of one channel or three for `{name}`. Received: shape "
            f"{images.shape}. Hint: put the channel axis last, and select three channels if there "
            "are more."
        )
    if images.dtype.kind not in "fiub" or not np.isfinite(images).all():
        raise ValueError(
            f"Expected finite numbers for `{name}`. Received: {images.dtype}, not numeric or with "
            "NaN or infinity. Hint: pass the images before preprocessing for the network."
        )
    if images.ndim == 4 and images.dtype != np.uint8 and not 0 <= images.min() <= images.max() <= 1:
        raise ValueError(
            f"Expected colors in [0, 1] or uint8 for `{name}`. Received: {images.dtype} from "
            f"{images.min():.4g} to {images.max():.4g}. Hint: pass x / 255, or undo the scaling."
        )
    return images


def _draw(
    ax: Axes, image: np.ndarray, left: float, top: float, height: float, cmap: str = "gray_r"
):
    extent = (left, left + 1, top + height, top)
    return ax.imshow(image, cmap=cmap, extent=extent, interpolation="nearest")


def _frame(ax: Axes, left: float, right: float, top: float, bottom: float) -> None:
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set(xlim=(left - _EDGE, right + _EDGE), ylim=(bottom + _EDGE, top - _EDGE))
