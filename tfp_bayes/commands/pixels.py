"""Scaling of inputs for models that expect other numbers than files hold."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

BATCH = 288  # images in memory where those in files are scaled


def check_divisor(divide_by: float) -> None:
    """Raises ValueError unless the value of `--divide-by` is positive."""
    if not divide_by > 0:
        raise ValueError(
            f"Expected a positive number for --divide-by. Received: {divide_by}. "
            "Hint: 255 for a model of pixels from 0 to 1."
        )


def say_scale(model: keras.Model, divide_by: float) -> None:
    """Says which pixels a model gets that scales none itself, as no error would tell."""
    import keras

    from tfp_bayes._plumbing.keras_internals import flatten_layers

    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    if divide_by == 1 and not any(isinstance(each, scaling) for each in flatten_layers(model)):
        print(
            "Note: the model has no layer that scales pixels; it gets them from 0 to 255. "
            "If it was trained on 0 to 1, add --divide-by 255.",
            file=sys.stderr,
        )


def scaled(x: Any, y: Any, divide_by: float) -> Any:
    """Returns inputs, with labels if there are some, divided by a number.

    Args:
        x: (N, ...) array or `ImageFiles`, which stay in their files.
        y: (N, ...) labels, or None.
        divide_by: Positive.
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
