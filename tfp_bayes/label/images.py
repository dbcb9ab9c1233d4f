"""Images as files that a browser shows."""

import io

import numpy as np
from matplotlib.figure import Figure


def png(image: np.ndarray) -> bytes:
    """Returns an image (H, W, C) as a PNG file; one channel is drawn dark on light."""
    figure = Figure(figsize=(2.8, 2.8))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray_r")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
