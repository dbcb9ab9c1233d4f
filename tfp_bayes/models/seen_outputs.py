"""Prepare the outputs of a model for its loss and its metrics."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import set_timestep_mask, timestep_mask
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.prediction.inference_mode import run_isolated


def of_location(metric: keras.metrics.Metric, y, y_pred) -> tuple:
    """Return targets and locations of normal outputs, for metrics of point predictions.

    The outputs (location, scale) are twice as wide as the targets, so comparing them directly
    would broadcast and give wrong numbers. Metrics whose class sets `takes_parameters = True`
    receive both.
    """
    if getattr(metric, "takes_parameters", False):
        return y, y_pred
    location, _ = tf.split(y_pred, 2, axis=-1)
    set_timestep_mask(location, timestep_mask(y_pred))
    return tf.reshape(y, tf.shape(location)), location


def copy_output_masks(model: keras.Model, x, y_pred) -> None:
    """Copy the time step masks of a model's outputs to its predictive means.

    Args:
        model: A functional model.
        x: Inputs of the model.
        y_pred: Predictive means, tensors in the structure of the model's outputs.
    """
    for mean, mask in zip(keras.tree.flatten(y_pred), output_masks(model, x)):
        set_timestep_mask(mean, mask)


def output_masks(model: keras.Model, x) -> list[tf.Tensor | None]:
    """Return the time step mask of each output of a functional model, or None if it has none."""
    if all(timestep_mask(each) is None for each in model.outputs):
        return [None] * len(model.outputs)
    seeds = [each.seed_generator.state for each in stochastic_layers(model)]
    outputs = run_isolated(
        model,
        lambda x: model(x, training=False),
        x,
        [(seed, tf.zeros(seed.shape, seed.dtype)) for seed in seeds],
    )
    return [timestep_mask(each) for each in keras.tree.flatten(outputs)]
