"""The log posterior density of a model's weights, given all data."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import check_reads_once, count_rows, labelled_batches
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.keras_internals import flatten_layers, graph_nodes, graph_of
from tfp_bayes.inference.batch_statistics import trained_normalizations
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.prediction.inference_mode import refuse_forced_training, run_isolated
from tfp_bayes.prediction.split import SplitModel

_BATCH_SIZE = 1024
Data = tuple[Any, Any, Any]  # x, y and sample_weight, all rows


class LogPosterior:
    """The function (log p(y | x, w) - |w|^2 / (2 s^2)) / T in nats, up to a constant.

    Here w is a vector of weights, the likelihood is that of the model's compiled loss, and s is
    the model's `prior_scale`. The prior includes biases, because the posterior would be improper
    without a prior on them. Computations that do not depend on w are done once.

    Args:
        model: A compiled `BayesianModel` with a `prior_scale` and without stochastic layers.
        variables: The trainable variables of the model that w contains, in this order.
        data: All rows of the data.
        temperature: Temperature T.
    """

    def __init__(
        self,
        model: keras.Model,
        variables: list[keras.Variable],
        data: Data,
        temperature: float = 1.0,
    ):
        self.variables = variables
        self._model = model
        self._split = SplitModel(model, variables)
        x, self._y, self._sample_weight = keras.tree.map_structure(_as_tensor, data)
        self._values = run_isolated(model, self._split.prefix, x)
        self._sizes = [int(np.prod(v.shape)) for v in variables]
        self._scale = model.prior_scale
        self._temperature = temperature
        with tf.GradientTape() as tape:
            divergence = model.kl_divergence()
        gradients = tape.gradient(divergence, [v.value for v in variables])
        self._without_prior = [gradient is None for gradient in gradients]

    @property
    def size(self) -> int:
        """The number of weights P."""
        return sum(self._sizes)

    def position(self) -> np.ndarray:
        """Return the model's current weights (P,) in float64."""
        return np.concatenate([v.numpy().astype("float64").ravel() for v in self.variables])

    def split(self, position: tf.Tensor) -> list[tf.Tensor]:
        """Split weights (..., P) into one tensor for each variable, in the variable's dtype."""
        parts = tf.split(position, self._sizes, axis=-1)
        leading = tf.shape(position)[:-1]
        return [
            tf.cast(tf.reshape(part, tf.concat([leading, v.shape], 0)), v.dtype)
            for part, v in zip(parts, self.variables)
        ]

    def __call__(self, position: tf.Tensor) -> tf.Tensor:
        """Return the log density at weights (P,), a float64 scalar."""
        weights = self.split(position)
        outputs = self._run(weights)
        with keras.StatelessScope(list(zip(self.variables, weights))):
            nll = self._model.compute_loss(
                y=self._y, y_pred=outputs, sample_weight=self._sample_weight, training=False
            )
            divergence = self._model.kl_divergence()
        total = tf.cast(nll, tf.float64) * tf.cast(nll.num_observations, tf.float64)
        total += tf.cast(divergence, tf.float64)
        for part, alone in zip(tf.split(position, self._sizes), self._without_prior):
            if alone:
                total += tf.reduce_sum(tf.square(part)) / (2 * self._scale**2)
        return -total / self._temperature

    def predict(self, position: tf.Tensor) -> tf.Tensor:
        """Return all outputs for all rows at weights (P,), as one float64 vector."""
        outputs = keras.tree.flatten(self._run(self.split(position)))
        return tf.concat([tf.reshape(tf.cast(each, tf.float64), [-1]) for each in outputs], 0)

    def _run(self, weights: list[tf.Tensor]):
        state = list(zip(self.variables, weights))
        return run_isolated(self._model, self._split.suffix, self._values, state)


def sampled_variables(model: keras.Model, choice: str) -> list[keras.Variable]:
    """Return the trainable variables of a model, or those of the last layer that has any.

    Args:
        model: A built model.
        choice: "all" or "last_layer".

    Raises:
        ValueError: If there are no trainable variables, or it is unknown which layer is the last.
    """
    if choice == "all":
        found = model.trainable_variables
    else:
        graph = graph_of(model)
        if graph is None or len(graph.outputs) != 1:
            raise ValueError(
                "Expected a functional `model` with one output for variables='last_layer'. "
                f"Received: {model.name!r}. Hint: use variables='all'."
            )
        layers = [n.operation for n in graph_nodes(graph) if isinstance(n.operation, keras.Layer)]
        found = next((e.trainable_variables for e in layers[::-1] if e.trainable_variables), [])
    if not found:
        raise ValueError(
            f"Expected a `model` with trainable weights. Received: {model.name!r}, which has none. "
            "Hint: set layer.trainable=True for the layers whose weights are to be sampled."
        )
    return found


def check_model(model: keras.Model) -> None:
    """Raise ValueError unless a model defines a posterior that full-batch sampling supports."""
    if getattr(model, "prior_scale", None) is None:
        raise ValueError(
            "Expected a BayesianModel with a `prior_scale`, which defines the posterior. "
            f"Received: {model.name!r} of type {type(model).__name__}, without prior_scale. "
            "Hint: use tfp_bayes.BayesianModel(inputs, outputs, prior_scale=1.0)."
        )
    if getattr(model, "function_prior", None) is not None:
        raise ValueError(
            "Expected a `model` whose only prior is `prior_scale`. Received: "
            f"{model.name!r}, compiled with a function_prior, which only training on batches "
            "supports. Hint: compile it without function_prior, or use CyclicalSGHMC."
        )
    refuse_forced_training(model)
    random = [each.name for each in stochastic_layers(model)]
    if random:
        raise ValueError(
            f"Expected a `model` without stochastic layers. Received: {random}. "
            "Hint: build it from Keras' own layers; dropout and random kernels approximate the "
            "posterior that is sampled exactly here."
        )
    if model.losses:
        raise ValueError(
            "Expected a `model` without regularizers, which `prior_scale` replaces. "
            f"Received: {model.name!r} with {len(model.losses)}. Hint: leave them out."
        )


def check_precision(model: keras.Model, variables: list[keras.Variable]) -> None:
    """Raise ValueError if layers whose weights are sampled compute in half precision."""
    sampled = {id(v) for v in variables}
    names = [
        layer.name
        for layer in flatten_layers(model)
        if layer.compute_dtype in ("float16", "bfloat16")
        and not isinstance(layer, keras.Model)
        and any(id(v) in sampled for v in layer.variables)
    ]
    if names:
        raise ValueError(
            "Expected layers that compute in float32 or float64, because proposals are accepted "
            "or rejected by energy differences below 1 nat. Received: "
            f'{names} in half precision. Hint: set dtype="float32".'
        )


def check_statistics(model: keras.Model) -> None:
    """Raise ValueError if training the chains' starting points would change batch statistics."""
    names = [layer.name for layer in trained_normalizations(model)]
    if names:
        raise ValueError(
            "Expected a `model` without batch statistics, which would differ between chains. "
            f"Received: {names}. Hint: use LayerNormalization, or variables='last_layer'."
        )


def read_all(x: Any, y: Any, sample_weight: Any, num_weights: int, most: int) -> Data:
    """Read all rows, and refuse more rows than each step of a chain can process.

    Args:
        x: Arrays or a dataset.
        y: Targets, if `x` holds arrays.
        sample_weight: Sample weights, if `x` holds arrays.
        num_weights: Number of weights P.
        most: Largest allowed product of P and the number of rows.

    Raises:
        ValueError: If there are no rows or too many, or a dataset repeats them.
    """
    check_reads_once(x)
    parts: list[tuple] = []
    num_rows = 0
    for batch in labelled_batches(x, y, sample_weight, _BATCH_SIZE):
        parts.append(batch)
        num_rows += count_rows(batch[0])
        if num_rows * num_weights > most:
            raise ValueError(
                "Expected the number of weights times the number of rows to be at most "
                f"{most:,}, because each step of a chain reads every row. Received: "
                f"{num_weights:,} weights and {num_rows:,} rows or more. Hint: use "
                "variables='last_layer', fewer rows, or SWAG or DeepEnsemble, which read batches."
            )
    check_integers(1, num_rows=num_rows)
    if parts[0][1] is None:
        raise ValueError("Expected targets for `y`. Received: y=None. Hint: fit(model, x, y).")
    x, y, sample_weight = (
        None if column[0] is None else keras.tree.map_structure(_concatenate, *column)
        for column in zip(*parts)
    )
    return x, y, sample_weight


def _concatenate(*rows) -> np.ndarray:
    return np.concatenate([np.asarray(each) for each in rows])


def _as_tensor(array):
    return None if array is None else tf.convert_to_tensor(array)
