"""Images of a data set, drawn."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SIDE = 448  # pixels of an image that a browser shows, and of the longer side of larger ones


def draw_image(axes: Axes, image: np.ndarray) -> None:
    """Draws an image (H, W, C) without axes; one channel is drawn dark on light."""
    axes.set_axis_off()
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray_r")


def png(image: np.ndarray) -> bytes:
    """Returns an image (H, W, C) as a PNG file that a browser shows."""
    figure = Figure(figsize=(1, 1))
    draw_image(figure.add_axes((0, 0, 1, 1)), image)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=SIDE)
    return file.getvalue()
