"""A model run in inference mode on batches of inputs and targets."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import check_reads_once, unweighted_batches
from tfp_bayes._plumbing.keras_internals import timestep_mask
from tfp_bayes.prediction.inference_mode import run_isolated

BATCH_SIZE = 256


def run_model(model: keras.Model, inputs):
    """Return a model's outputs for a batch, and leave the state of the model unchanged."""
    inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
    return run_isolated(model, lambda each: model(each, training=False), inputs)


def labelled(x: Any, y: Any) -> Iterator[tuple]:
    """Yield the batches of inputs and targets that are not empty.

    Raises:
        ValueError: If there are no examples, there are sample weights, or a dataset repeats them.
    """
    if isinstance(y, list | tuple) and not all(hasattr(each, "shape") for each in y):
        y = np.asarray(y)  # a list of labels, not a list of arrays for several outputs
    check_reads_once(x)
    is_empty = True
    for inputs, targets in unweighted_batches(x, y, BATCH_SIZE):
        if len(keras.tree.flatten(inputs)[0]):
            is_empty = False
            yield inputs, targets
    if is_empty:
        raise ValueError(
            "Expected examples in `x`. Received: none. Hint: pass arrays (N, ...) with N > 0."
        )


def flat_targets(model: keras.Model, outputs, targets) -> list:
    """Return the targets of each output, in the order of `keras.tree.flatten`.

    Args:
        model: The model. Its `output_names` may serve as keys of `targets`.
        outputs: Outputs of the model, in any structure.
        targets: An array or a structure of arrays.

    Raises:
        ValueError: If the targets cannot be matched to the outputs.
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
            f"Expected targets for each of {len(flat)} outputs, in the structure of the outputs or "
            f"as a dict with keys {list(names)}. Received: a {type(targets).__name__} of "
            f"{len(given)}. Hint: pass {{name: y}}, or a list in the order of the outputs."
        )
    return given


def seen_positions(output: tf.Tensor) -> tf.Tensor | None:
    """Return a Boolean mask (N, ...) of the positions of an output that count; None for all.

    The mask comes from `keras.layers.Embedding(mask_zero=True)` or `Masking`. Keras weights losses
    with the same mask.
    """
    mask = timestep_mask(output)
    if mask is None or output.shape.rank <= mask.shape.rank:
        return None
    seen = mask
    for _ in range(output.shape.rank - 1 - mask.shape.rank):
        seen = seen[..., None]
    return tf.broadcast_to(seen, tf.shape(output)[:-1])
