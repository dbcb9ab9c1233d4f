"""The interface of a distribution over weights that a predictor can sample."""

from typing import Protocol, runtime_checkable

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers


@runtime_checkable
class Posterior(Protocol):
    """Interface of a distribution over some or all variables of one model.

    The same object works with `Predictor`, `export_saved_model` and `ActiveLearner`. Variables
    that it does not replace keep their values. Layers before the first one with a replaced
    variable run once for all samples.
    """

    # Properties rather than attributes, because they may be read-only.

    @property
    def variables(self) -> list[keras.Variable]:
        """Every variable that a draw replaces, including the statistics of `BatchNormalization`."""

    @property
    def num_draws(self) -> int | None:
        """Number of stored draws, which `index` selects, or None if each draw is new."""

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Build the graph of one draw. Its random numbers depend only on `seed`.

        Args:
            index: Number of the sample, int32 scalar, below `num_draws` if that is not None.
            seed: int32 (2,), a different one for each sample.

        Returns:
            One tensor for each of `variables`.
        """

    def center(self) -> list[tf.Tensor]:
        """Return the posterior mean, one tensor for each of `variables`."""


def check_posterior(posterior: Posterior, model: keras.Model, linearize: bool = False) -> None:
    """Raise ValueError unless the posterior is over variables of the model.

    An optional method `check_others` of the posterior raises the error if other weights of the
    model have changed since it was fitted.

    Args:
        posterior: Posterior to check.
        model: Model whose variables it should replace.
        linearize: Whether the model is only evaluated at the posterior's center.
    """
    if not isinstance(posterior, Posterior):
        raise ValueError(
            "Expected an object with `variables`, `num_draws`, `draw` and `center` for "
            f"`posterior`. Received: posterior={posterior!r}. "
            "Hint: see tfp_bayes.inference.Posterior; Ensemble(models) is an example."
        )
    known = {id(variable) for variable in model.variables}
    foreign = [v.path for v in posterior.variables if id(v) not in known]
    if foreign or not posterior.variables:
        raise ValueError(
            f"Expected a `posterior` over variables of model {model.name!r}. Received: "
            f"{len(foreign)} of its {len(posterior.variables)} variables that are not the "
            f"model's, {foreign[:3]}. "
            "Hint: bind the posterior to this model object, as in Ensemble(members, model=model)."
        )
    if not linearize:
        _check_statistics(posterior, model)
    check_others = getattr(posterior, "check_others", None)
    if check_others is not None:
        check_others()


def _check_statistics(posterior: Posterior, model: keras.Model) -> None:
    """Raise ValueError if draws replace weights of `BatchNormalization` without its statistics.

    The statistics that the model has belong to other weights.
    """
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
            "weights. Hint: estimate the statistics of each draw with tfp_bayes.inference's "
            "materialize(posterior, num_draws=30, refresh_batchnorm=x_train)."
        )


def with_noise_scales(outputs, posterior: Posterior | None):
    """Append the posterior's noise scales, if it has any, to outputs that are locations only.

    A posterior's optional attribute `noise_scales` has an array (D,) for each output
    (N, ..., D), or None for an output that has scales already.
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
