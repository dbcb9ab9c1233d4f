"""A model in inference mode on batches of inputs with targets beside them."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import unweighted_batches
from tfp_bayes._plumbing.keras_internals import timestep_mask
from tfp_bayes.prediction.inference_mode import run_isolated

BATCH_SIZE = 256


def run_model(model: keras.Model, inputs):
    """Returns a model's outputs for a batch, of which no trace remains in it."""
    inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
    return run_isolated(model, lambda each: model(each, training=False), inputs)


def labelled(x: Any, y: Any) -> Iterator[tuple]:
    """Yields batches of inputs and targets that are not empty.

    Raises:
        ValueError: If there are no examples, or examples have weights.
    """
    if isinstance(y, list | tuple) and not all(hasattr(each, "shape") for each in y):
        y = np.asarray(y)  # a list of labels, not of arrays for several outputs
    is_empty = True
    for inputs, targets in unweighted_batches(x, y, BATCH_SIZE):
        if len(keras.tree.flatten(inputs)[0]):
            is_empty = False
            yield inputs, targets
    if is_empty:
        raise ValueError("Expected examples in `x`. Received: none. Hint: arrays (N, ...), N > 0.")


def flat_targets(model: keras.Model, outputs, targets) -> list:
    """Returns the targets of each output in the order of `keras.tree.flatten`.

    Args:
        model: The model, whose `output_names` targets may be given by.
        outputs: What it returns, in any structure.
        targets: An array, or a structure of them.

    Raises:
        ValueError: If nobody can tell which targets belong to which output.
    """
    flat = keras.tree.flatten(outputs)
    if len(flat) == 1:
        return keras.tree.flatten(targets) if isinstance(targets, dict) else [targets]
    names = getattr(model, "output_names", [])
    if isinstance(targets, dict) and not isinstance(outputs, dict) and set(targets) == set(names):
        targets = [targets[name] for name in names]
    given = keras.tree.flatten(targets)
    if isinstance(targets, dict) != isinstance(outputs, dict) or len(given) != len(flat):
        raise ValueError(
            f"Expected targets for each of {len(flat)} outputs, in their structure or by their "
            f"names {list(names)}. Received: a {type(targets).__name__} of {len(given)}. "
            "Hint: fit(model, x, {name: y}) or a list in the order of the outputs."
        )
    return given


def seen_positions(output: tf.Tensor) -> tf.Tensor | None:
    """Returns which positions (N, ...) of an output count, as its mask says; None for all.

    It is the mask of `keras.layers.Embedding(mask_zero=True)` and `Masking`, by which Keras weighs
    losses.
    """
    mask = timestep_mask(output)
    if mask is None or output.shape.rank <= mask.shape.rank:
        return None
    seen = mask
    for _ in range(output.shape.rank - 1 - mask.shape.rank):
        seen = seen[..., None]
    return tf.broadcast_to(seen, tf.shape(output)[:-1])
