"""Resizing of uint8 images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


def resize_all(images: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Resizes images (N, H, W, C) to (N, *image_size, C) uint8."""
    # In parts, to save memory: the intermediate result is float32.
    parts = range(0, len(images), 1000)
    return np.concatenate([resize(images[i : i + 1000], image_size).numpy() for i in parts])


def resize(images: np.ndarray | tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Resizes images (..., H, W, C) with antialiasing and rounds them to uint8."""
    import tensorflow as tf

    # Without antialiasing, shrinking would skip pixels. The kernel averages, so values stay in
    # [0, 255].
    return tf.cast(tf.round(tf.image.resize(images, image_size, antialias=True)), tf.uint8)
