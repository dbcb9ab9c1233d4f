"""The contract of a distribution over weights that a predictor can sample."""

from typing import Protocol, runtime_checkable

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers


@runtime_checkable
class Posterior(Protocol):
    """A distribution over some or all variables of one model.

    The same object serves `Predictor`, `export_saved_model` and `ActiveLearner`. Variables that it
    does not replace keep their values, and layers before the first replaced one run once for all
    samples.
    """

    # Properties, because a posterior need not let anybody set them.

    @property
    def variables(self) -> list[keras.Variable]:
        """Every variable that a draw replaces, the statistics of `BatchNormalization` included."""

    @property
    def num_draws(self) -> int | None:
        """Number of stored draws, of which draw `index` is one; None if each draw is new."""

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Builds the graph of one draw; everything random follows from `seed` alone.

        Args:
            index: int32 scalar, the number of the sample, below `num_draws` if that is finite.
            seed: int32 (2,), another one for each sample.

        Returns:
            One tensor for each of `variables`.
        """

    def center(self) -> list[tf.Tensor]:
        """Returns the posterior mean, one tensor for each of `variables`."""


def check_posterior(posterior: Posterior, model: keras.Model, linearize: bool = False) -> None:
    """Raises ValueError unless this is a posterior over variables of that model.

    Args:
        posterior: The posterior.
        model: The model.
        linearize: Whether the model is taken at the posterior's center only.
    """
    if not isinstance(posterior, Posterior):
        raise ValueError(
            "Expected an object with `variables`, `num_draws`, `draw` and `center` for "
            f"`posterior`. Received: posterior={posterior!r}. "
            "Hint: see tfp_bayes.inference.Posterior; Ensemble(models) is one."
        )
    known = {id(variable) for variable in model.variables}
    foreign = [v.path for v in posterior.variables if id(v) not in known]
    if foreign or not posterior.variables:
        raise ValueError(
            f"Expected a `posterior` over variables of model {model.name!r}. Received: "
            f"{len(foreign)} of its {len(posterior.variables)} variables that are not the "
            f"model's, {foreign[:3]}. "
            "Hint: bind the posterior to this very model, as in Ensemble(members, model=model)."
        )
    if not linearize:
        _check_statistics(posterior, model)


def _check_statistics(posterior: Posterior, model: keras.Model) -> None:
    """Refuses draws of `BatchNormalization` without its statistics, which are of other weights."""
    drawn = {id(variable) for variable in posterior.variables}
    names = [
        layer.name
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and any(id(v) in drawn for v in layer.weights)
        and id(layer.moving_mean) not in drawn
    ]
    if names:
        raise ValueError(
            "Expected moving statistics in each draw of a `posterior` over weights of "
            f"BatchNormalization. Received: layers {names}, whose statistics belong to other "
            "weights. Hint: materialize(posterior, num_draws=30, refresh_batchnorm=x_train) of "
            "tfp_bayes.inference estimates those of each draw."
        )


def with_noise_scales(outputs, posterior: Posterior | None):
    """Appends scales to outputs (N, ..., D) that are locations alone, if the posterior knows them.

    Its `noise_scales`, if it has that attribute, are (D,) for each output, or None for an output
    that is complete.
    """
    scales = getattr(posterior, "noise_scales", None)
    if scales is None:
        return outputs

    def complete(loc: tf.Tensor, scale: tf.Tensor | None) -> tf.Tensor:
        if scale is None:
            return loc
        scale = tf.broadcast_to(tf.cast(scale, loc.dtype), tf.shape(loc))
        return tf.concat([loc, scale], axis=-1)

    flat = [complete(*each) for each in zip(keras.tree.flatten(outputs), scales, strict=True)]
    return keras.tree.pack_sequence_as(outputs, flat)
