"""Losses that are the negative log likelihood of a stated likelihood, for each observation."""

import functools

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import timestep_mask
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
# What Keras resolves to a loss once it has seen targets.
_LATER = ("crossentropy", "ce")


class ObservedLoss:
    """The loss of one output: a sum over observations and their number, instead of a mean.

    An observation is one value of the loss: an example, a pixel, a time step, the D targets of a
    normal vector. Of a Bernoulli output each of the K probabilities is one, over which Keras'
    loss averages. Sample weights multiply an observation's NLL and leave the number as it is: an
    example of weight 2 counts as two of them. What a mask hides is no observation.

    Args:
        loss: A Keras loss.
        likelihood: The likelihood that is stated for the output.

    Raises:
        ValueError: If Keras' loss is not the negative log likelihood, or its reduction would
            weight the prior wrongly.
    """

    def __init__(self, loss: keras.losses.Loss, likelihood: str):
        check_loss(loss, likelihood)
        self.likelihood = likelihood
        self.trained = loss
        self.nll = _without_shaping(loss)

    def sums(self, loss: keras.losses.Loss, y, y_pred, sample_weight) -> tuple:
        """Returns the weighted sum of the values of `trained` or `nll`, and how many there are.

        Args:
            loss: `trained` or `nll`.
            y: Targets of the output.
            y_pred: The output (B, ..., K).
            sample_weight: Weights of rank up to that of the values, from the left, or None.

        Returns:
            Two scalars of the loss's dtype.
        """
        in_mask = timestep_mask(y_pred)
        y_pred = tf.cast(y_pred, loss.dtype)
        y = tf.cast(y, loss.dtype)
        per_value = tf.ones([], loss.dtype)
        if self.likelihood == "bernoulli" and _keras_function(loss) is not None:
            y = _like_outputs(y, y_pred)
            per_value = tf.cast(tf.shape(y_pred)[-1], loss.dtype)  # values are means over K
        values = tf.convert_to_tensor(loss.call(y, y_pred))
        if values.shape.rank == 0:
            raise ValueError(
                "Expected one value for each observation from the loss. Received: "
                f"{_name(loss)}, which returns a single number. Hint: leave the mean over the "
                "batch to Keras, so that the prior can be weighted by the number of observations."
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
    """Refuses losses that do not fit, as far as `compile` can know: see `ObservedLoss`.

    Args:
        loss: What the user gives to `compile`.
        likelihoods: One name for all outputs, or one for each.
        output_names: Names of the model's outputs.
    """
    if isinstance(loss, dict) and set(loss) <= set(output_names):
        by_output = dict(zip(output_names, likelihoods * len(output_names)))
        pairs = [(each, by_output[name]) for name, each in loss.items()]
    else:
        flat = keras.tree.flatten(loss)
        if len(likelihoods) not in (1, len(flat)):
            return  # known when they are called
        pairs = list(zip(flat, likelihoods * len(flat)))
    for each, likelihood in pairs:
        if each is not None and str(each).lower() not in _LATER:
            check_loss(keras.losses.get(each), likelihood)


def check_loss(loss, likelihood: str) -> None:
    """Raises ValueError unless a loss can be the negative log likelihood, see `ObservedLoss`.

    Keras' own losses are known. One of the user's own is taken at its word: its values are the
    negative log likelihoods of observations, in nats, and all of them count.
    """
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    if reduction not in ("sum_over_batch_size", "mean"):
        raise ValueError(
            "Expected reduction='sum_over_batch_size' for the loss, whose mean over observations "
            f"the weight of the prior goes with. Received: {_name(loss)} with "
            f"reduction={reduction!r}. Hint: leave `reduction` out."
        )
    function = _keras_function(loss)
    if function is None and not isinstance(loss, NormalNLL):
        return
    config = {**_config(loss), **_keywords(loss)}
    if config.get("from_logits"):
        raise ValueError(
            "Expected a loss of probabilities, which are what a Bayesian model averages. "
            f"Received: {_name(loss)} with from_logits=True. Hint: end the model in a softmax or "
            "sigmoid and leave `from_logits` out."
        )
    fits = isinstance(loss, NormalNLL) if likelihood == "normal" else False
    if not fits and function not in _FUNCTIONS.get(likelihood, ()):
        raise ValueError(
            f"Expected the negative log likelihood of likelihood={likelihood!r} as the loss. "
            f"Received: {_name(loss)}. Hint: {_HINTS[likelihood]}; or state another likelihood, "
            "BayesianModel(..., likelihood=), or write a loss of your own that returns the NLL "
            "of each observation."
        )
    if config.get("axis", -1) != -1:
        raise ValueError(
            f"Expected classes on the last axis. Received: {_name(loss)} with "
            f"axis={config['axis']}. Hint: permute the outputs, (..., K)."
        )


def _without_shaping(loss: keras.losses.Loss) -> keras.losses.Loss:
    """Returns a loss without what changes training only: label smoothing, beta of NormalNLL."""
    config = _config(loss)
    shaping = {name: 0.0 for name in ("label_smoothing", "beta") if config.get(name)}
    if not shaping or (_keras_function(loss) is None and not isinstance(loss, NormalNLL)):
        return loss
    return type(loss).from_config({**config, **shaping})


def _keras_function(loss):
    """Returns the function of Keras that a loss wraps or is, None if it is the user's."""
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
    wraps = type(loss).__name__ == "LossFunctionWrapper"  # whose function may have no name
    if named and isinstance(loss, keras.losses.Loss) and not wraps:
        return loss.get_config()
    return {}


def _name(loss) -> str:
    if isinstance(loss, keras.losses.Loss) and type(loss).__name__ != "LossFunctionWrapper":
        return type(loss).__name__
    function = getattr(loss, "fn", loss)
    return getattr(function, "__name__", repr(function))


def _like_outputs(y: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Gives targets the last axis of the outputs, K = 1, which may have been left out."""
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
    """Gives weights of the first axes of the values their rank."""
    missing = values.shape.rank - weights.shape.rank
    if missing == -1 and weights.shape[-1] == 1:
        return tf.squeeze(weights, -1)
    fits = missing >= 0 and all(
        a is None or b is None or a in (1, b) for a, b in zip(weights.shape, values.shape)
    )
    if not fits:
        raise ValueError(
            f"Expected a `{name}` of the first axes of the loss's values, which have shape "
            f"{tuple(values.shape)}. Received: {name} of shape {tuple(weights.shape)}. Hint: one "
            "weight for each example or observation."
        )
    return tf.reshape(weights, tf.concat([tf.shape(weights), tf.ones(missing, tf.int32)], 0))
