"""Losses that are the negative log likelihood (NLL) of each observation."""

import functools

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import timestep_mask
from tfp_bayes._plumbing.losses import check_mean, loss_name
from tfp_bayes.losses import NormalNLL

_FUNCTIONS = {
    "categorical": (
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.categorical_crossentropy,
    ),
    "bernoulli": (keras.losses.binary_crossentropy,),
}
_HINTS = {
    "categorical": '"sparse_categorical_crossentropy" or "categorical_crossentropy" is',
    "bernoulli": '"binary_crossentropy" is',
    "normal": "tfp_bayes.losses.NormalNLL() is",
}
# Names that Keras resolves to a loss once it has seen targets.
_LATER = ("crossentropy", "ce")


class ObservedLoss:
    """The loss of one output as a sum over observations and their number, instead of a mean.

    An observation is one value of the loss: an example, a pixel, a time step, or the D targets of
    a normal vector. For a Bernoulli output, each of the K probabilities is an observation; Keras'
    loss averages over them. Sample weights multiply the NLL of an observation and leave the number
    of observations unchanged, so an example of weight 2 contributes as much as two examples.
    Masked values are not observations.

    Args:
        loss: A Keras loss.
        likelihood: Likelihood stated for the output.

    Raises:
        ValueError: If a loss of Keras is not the negative log likelihood, or the reduction would
            weight the prior wrongly.
    """

    def __init__(self, loss: keras.losses.Loss, likelihood: str):
        check_loss(loss, likelihood)
        self.likelihood = likelihood
        self.trained = loss
        self.nll = _without_shaping(loss)

    def sums(self, loss: keras.losses.Loss, y, y_pred, sample_weight) -> tuple:
        """Return the weighted sum of the values of a loss, and the number of observations.

        Args:
            loss: `trained` or `nll` of this object.
            y: Targets of the output.
            y_pred: The output (B, ..., K).
            sample_weight: Weights for the first axes of the loss's values, or None.

        Returns:
            Two scalars of the loss's dtype.
        """
        in_mask = timestep_mask(y_pred)
        y_pred = tf.cast(y_pred, loss.dtype)
        y = tf.cast(y, loss.dtype)
        per_value = tf.ones([], loss.dtype)
        if self.likelihood == "bernoulli" and _keras_function(loss) is not None:
            y = _like_outputs(y, y_pred)
            per_value = tf.cast(tf.shape(y_pred)[-1], loss.dtype)  # each value is a mean over K
        values = tf.convert_to_tensor(loss.call(y, y_pred))
        if values.shape.rank == 0:
            raise ValueError(
                "Expected one value for each observation from the loss. Received: "
                f"{loss_name(loss)}, which returns a single number. Hint: return values that are "
                "not averaged over the batch, so that the prior can be weighted by their number."
            )
        mask = _both(in_mask, timestep_mask(values), values)
        count = tf.cast(tf.size(values), loss.dtype)
        if mask is not None:
            count = tf.reduce_sum(tf.cast(mask, loss.dtype))
            values = tf.where(mask, values, tf.zeros_like(values))
        if sample_weight is not None:
            values *= _along(tf.cast(sample_weight, loss.dtype), values, "sample_weight")
        return tf.reduce_sum(values) * per_value, count * per_value


def check_compiled(loss, likelihoods: list[str], output_names: list[str]) -> None:
    """Refuse losses that are not the stated NLL, as far as known in `compile`. See `ObservedLoss`.

    Args:
        loss: Argument `loss` of `compile`.
        likelihoods: One name for all outputs, or one name per output.
        output_names: Names of the model's outputs.
    """
    if isinstance(loss, dict) and set(loss) <= set(output_names):
        by_output = dict(zip(output_names, likelihoods * len(output_names)))
        pairs = [(each, by_output[name]) for name, each in loss.items()]
    else:
        flat = keras.tree.flatten(loss)
        if len(likelihoods) not in (1, len(flat)):
            return  # checked when they are called
        pairs = list(zip(flat, likelihoods * len(flat)))
    for each, likelihood in pairs:
        if each is not None and str(each).lower() not in _LATER:
            check_loss(keras.losses.get(each), likelihood)


def check_loss(loss, likelihood: str) -> None:
    """Raise ValueError unless a loss can be the negative log likelihood, see `ObservedLoss`.

    Keras' losses are checked. Each value of a user's loss counts as the negative log likelihood of
    an observation, in nats.
    """
    check_mean(loss, "the prior is weighted against a mean over observations")
    function = _keras_function(loss)
    if function is None and not isinstance(loss, NormalNLL):
        return
    config = {**_config(loss), **_keywords(loss)}
    if config.get("from_logits"):
        raise ValueError(
            "Expected a loss of probabilities, because a Bayesian model averages probabilities. "
            f"Received: {loss_name(loss)} with from_logits=True. Hint: end the model in a softmax "
            "or sigmoid and leave `from_logits` out."
        )
    fits = isinstance(loss, NormalNLL) if likelihood == "normal" else False
    if not fits and function not in _FUNCTIONS.get(likelihood, ()):
        raise ValueError(
            f"Expected the negative log likelihood of likelihood={likelihood!r} as the loss. "
            f"Received: {loss_name(loss)}. Hint: {_HINTS[likelihood]}; or state another "
            "likelihood, BayesianModel(..., likelihood=...), or write a loss that returns the NLL "
            "of each observation."
        )
    if config.get("axis", -1) != -1:
        raise ValueError(
            f"Expected classes on the last axis. Received: {loss_name(loss)} with "
            f"axis={config['axis']}. Hint: permute the outputs, (..., K)."
        )


def _without_shaping(loss: keras.losses.Loss) -> keras.losses.Loss:
    """Return a loss without training options: label smoothing and the beta of NormalNLL."""
    config = _config(loss)
    shaping = {name: 0.0 for name in ("label_smoothing", "beta") if config.get(name)}
    if not shaping or (_keras_function(loss) is None and not isinstance(loss, NormalNLL)):
        return loss
    return type(loss).from_config({**config, **shaping})


def _keras_function(loss):
    """Return the Keras function that a loss wraps or is, or None if it is the user's."""
    function = loss
    if isinstance(loss, keras.losses.Loss):
        function = getattr(loss, "fn", None)
        if not type(loss).call.__module__.startswith("keras."):
            return None
    while isinstance(function, functools.partial):
        function = function.func
    own = getattr(function, "__module__", None) or ""
    return function if own.startswith("keras.") else None


def _keywords(loss) -> dict:
    function = getattr(loss, "fn", loss)
    return function.keywords if isinstance(function, functools.partial) else {}


def _config(loss) -> dict:
    named = _keras_function(loss) is not None or isinstance(loss, NormalNLL)
    wraps = type(loss).__name__ == "LossFunctionWrapper"  # its function may have no name
    if named and isinstance(loss, keras.losses.Loss) and not wraps:
        return loss.get_config()
    return {}


def _like_outputs(y: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Add the last axis of the outputs, K = 1, to targets that lack it."""
    if y.shape.rank == y_pred.shape.rank - 1:
        y = y[..., None]
    if not y.shape.is_compatible_with(y_pred.shape):
        raise ValueError(
            f"Expected targets of the outputs' shape {tuple(y_pred.shape)}. Received: targets of "
            f"shape {tuple(y.shape)}. Hint: one 0 or 1 for each output."
        )
    return y


def _both(a, b, values: tf.Tensor) -> tf.Tensor | None:
    masks = [_along(tf.cast(m, tf.bool), values, "mask") for m in (a, b) if m is not None]
    masks = [tf.broadcast_to(mask, tf.shape(values)) for mask in masks]
    return functools.reduce(tf.logical_and, masks) if masks else None


def _along(weights: tf.Tensor, values: tf.Tensor, name: str) -> tf.Tensor:
    """Reshape weights for the first axes of the values so that they broadcast with them."""
    missing = values.shape.rank - weights.shape.rank
    if missing == -1 and weights.shape[-1] == 1:
        return tf.squeeze(weights, -1)
    fits = missing >= 0 and all(
        a is None or b is None or a in (1, b) for a, b in zip(weights.shape, values.shape)
    )
    if not fits:
        raise ValueError(
            f"Expected a `{name}` for the first axes of the loss's values, which have shape "
            f"{tuple(values.shape)}. Received: {name} of shape {tuple(weights.shape)}. Hint: use "
            "one weight for each example or observation."
        )
    return tf.reshape(weights, tf.concat([tf.shape(weights), tf.ones(missing, tf.int32)], 0))
