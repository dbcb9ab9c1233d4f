"""Scaling of inputs, for models that expect pixels in another range than files contain."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

BATCH = 288  # number of images in memory while images from files are scaled


def check_divisor(divide_by: float) -> None:
    """Raise ValueError unless the value of `--divide-by` is positive and finite."""
    if not 0 < divide_by < math.inf:
        raise ValueError(
            f"Expected a positive number for --divide-by. Received: {divide_by}. "
            "Hint: use 255 for a model that was trained on pixels from 0 to 1."
        )


def say_scale(model: keras.Model, divide_by: float) -> None:
    """Print a note on the range of pixels if the model has no layer that scales them.

    Pixels in the wrong range give wrong predictions without an error.
    """
    import keras

    from tfp_bayes._plumbing.keras_internals import flatten_layers

    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    if divide_by == 1 and not any(isinstance(each, scaling) for each in flatten_layers(model)):
        print(
            "Note: the model has no layer that scales pixels; it gets pixels from 0 to 255. "
            "If it was trained on pixels from 0 to 1, add --divide-by 255.",
            file=sys.stderr,
        )


def scaled(x: Any, y: Any, divide_by: float) -> Any:
    """Divide inputs by a number. Return them, together with labels if there are any.

    Args:
        x: Inputs (N, ...) as an array or as `ImageFiles`, which are read batch by batch.
        y: Labels (N, ...), or None.
        divide_by: Positive number.
    """
    from tfp_bayes.datasets import ImageFiles

    if divide_by != 1 and isinstance(x, ImageFiles):
        import tensorflow as tf

        rows = x.as_dataset(y).batch(BATCH)
        if y is None:
            return rows.map(lambda x: tf.cast(x, tf.float32) / divide_by)
        return rows.map(lambda x, y: (tf.cast(x, tf.float32) / divide_by, y))
    if divide_by != 1:
        x = x.astype("float32") / divide_by
    return x if y is None else (x, y)
