"""Adversarial training: each batch is followed by a copy that the network finds harder."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@contextlib.contextmanager
def adversarial_training(model: keras.Model, x: Any, share: float) -> Iterator[None]:
    """Make a model's `fit` train on adversarial inputs too, until the context ends.

    Each training step gets a batch and a copy of it whose inputs are perturbed by the fast
    gradient sign method. The loss is the mean over both. The gradient for the perturbation is
    computed in inference mode; the statistics of `BatchNormalization` are updated from both halves.

    Args:
        model: Compiled Keras model.
        x: The training inputs: floating-point arrays (N, ...) or a structure of them.
        share: Size of the perturbation of each input, as a share of its range in `x`. 0 turns
            adversarial training off.

    Raises:
        ValueError: If `x` does not consist of floating-point arrays.

    Reference:
        Lakshminarayanan et al. 2017, section 2.3, arXiv:1612.01474.
    """
    if not share:
        yield
        return
    steps = keras.tree.map_structure(lambda each: share * np.ptp(_floating(each), axis=0), x)
    take_step = model.train_step

    def train_step(data):
        inputs, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        both = (inputs, _perturbed(model, inputs, y, weight, steps)), (y, y), (weight, weight)
        return take_step(tuple(keras.tree.map_structure(_join, *each) for each in both))

    model.train_step = train_step
    model.train_function = None  # otherwise Keras keeps the graph of the earlier `train_step`
    try:
        yield
    finally:
        del model.train_step
        model.train_function = None


def _perturbed(model: keras.Model, inputs, y, weight, steps):
    """Move each input by its step in the direction in which the loss grows."""
    flat = keras.tree.flatten(inputs)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(flat)
        outputs = model(inputs, training=False)
        loss = model.compute_loss(inputs, y, outputs, weight, training=False)
    gradients = tape.gradient(loss, flat, unconnected_gradients="zero")
    moved = [
        value + tf.cast(step, value.dtype) * tf.sign(gradient)
        for value, step, gradient in zip(flat, keras.tree.flatten(steps), gradients, strict=True)
    ]
    return keras.tree.pack_sequence_as(inputs, moved)


def _join(a, b):
    return None if a is None else tf.concat([a, b], axis=0)


def _floating(x: Any) -> np.ndarray:
    array = np.asarray(x) if hasattr(x, "__array__") else None
    if array is None or array.dtype.kind != "f":
        raise ValueError(
            "Expected arrays of floating-point inputs for adversarial training. Received: x of "
            f"type {type(x).__name__ if array is None else array.dtype}. "
            "Hint: convert images to floats first, or turn this off with adversarial=0.0."
        )
    return array
