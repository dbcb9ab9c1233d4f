"""Drawing of images from a data set."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SIDE = 448  # side in pixels of an image in a browser; the longer side of a larger image


def draw_image(axes: Axes, image: np.ndarray) -> None:
    """Draw an image (H, W, C) without axes. A single channel is drawn dark on light."""
    axes.set_axis_off()
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray_r")


def png(image: np.ndarray) -> bytes:
    """Return an image (H, W, C) as the bytes of a PNG file."""
    figure = Figure(figsize=(1, 1))
    draw_image(figure.add_axes((0, 0, 1, 1)), image)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=SIDE)
    return file.getvalue()
