"""The log posterior density of a model's weights given all of the data, as a function of them."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import count_rows, labelled_batches
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.keras_internals import flatten_layers, graph_nodes, graph_of
from tfp_bayes.inference.batch_statistics import trained_normalizations
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.prediction.inference_mode import refuse_forced_training, run_isolated
from tfp_bayes.prediction.split import SplitModel

_BATCH_SIZE = 1024
Data = tuple[Any, Any, Any]  # x, y and sample_weight, all rows


class LogPosterior:
    """(log p(y | x, w) - |w|^2 / (2 s^2)) / T in nats, up to a constant, of weights w in a vector.

    The likelihood is that of the model's compiled loss, and s its `prior_scale`, which is that of
    biases here too: without a prior of theirs there would be no posterior to sample. What does not
    depend on the weights is computed once.

    Args:
        model: A compiled `BayesianModel` with a `prior_scale` and nothing random in it.
        variables: Those of its trainable variables that w holds, in this order.
        data: All rows.
        temperature: T.
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
        """Number of weights."""
        return sum(self._sizes)

    def position(self) -> np.ndarray:
        """Returns the model's present weights, (P,) float64."""
        return np.concatenate([v.numpy().astype("float64").ravel() for v in self.variables])

    def split(self, position: tf.Tensor) -> list[tf.Tensor]:
        """Returns weights (..., P) as one tensor for each variable, in its dtype."""
        parts = tf.split(position, self._sizes, axis=-1)
        leading = tf.shape(position)[:-1]
        return [
            tf.cast(tf.reshape(part, tf.concat([leading, v.shape], 0)), v.dtype)
            for part, v in zip(parts, self.variables)
        ]

    def __call__(self, position: tf.Tensor) -> tf.Tensor:
        """Returns the log density at weights (P,), a float64 scalar."""
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
        """Returns the outputs at weights (P,) for all rows, one after another, float64."""
        outputs = keras.tree.flatten(self._run(self.split(position)))
        return tf.concat([tf.reshape(tf.cast(each, tf.float64), [-1]) for each in outputs], 0)

    def _run(self, weights: list[tf.Tensor]):
        state = list(zip(self.variables, weights))
        return run_isolated(self._model, self._split.suffix, self._values, state)


def sampled_variables(model: keras.Model, choice: str) -> list[keras.Variable]:
    """Returns the trainable variables of the model, or those of its last layer with any.

    Args:
        model: A built model.
        choice: "all" or "last_layer".

    Raises:
        ValueError: If there are none, or nobody can tell which layer is the last.
    """
    if choice == "all":
        found = model.trainable_variables
    else:
        graph = graph_of(model)
        if graph is None or len(graph.outputs) != 1:
            raise ValueError(
                "Expected a functional `model` with one output for variables='last_layer'. "
                f"Received: {model.name!r}. Hint: variables='all'."
            )
        layers = [n.operation for n in graph_nodes(graph) if isinstance(n.operation, keras.Layer)]
        found = next((e.trainable_variables for e in layers[::-1] if e.trainable_variables), [])
    if not found:
        raise ValueError(
            f"Expected a `model` with trainable weights. Received: {model.name!r} without. "
            "Hint: set layer.trainable=True where weights are to be sampled."
        )
    return found


def check_model(model: keras.Model) -> None:
    """Raises ValueError unless a model states a posterior that full-batch sampling can use."""
    if getattr(model, "prior_scale", None) is None:
        raise ValueError(
            "Expected a BayesianModel with a `prior_scale`, which says what the posterior is. "
            f"Received: {model.name!r} of type {type(model).__name__} without. "
            "Hint: tfp_bayes.BayesianModel(inputs, outputs, prior_scale=1.0)."
        )
    if getattr(model, "function_prior", None) is not None:
        raise ValueError(
            "Expected a `model` whose prior is `prior_scale` alone. Received: "
            f"{model.name!r}, compiled with a function_prior, which only training on batches "
            "takes into account. Hint: compile it without, or use CyclicalSGHMC."
        )
    refuse_forced_training(model)
    random = [each.name for each in stochastic_layers(model)]
    if random:
        raise ValueError(
            f"Expected a `model` with nothing random in it but its weights. Received: {random}. "
            "Hint: build it from Keras' own layers; dropout and random kernels approximate what "
            "is sampled here."
        )
    if model.losses:
        raise ValueError(
            "Expected a `model` without regularizers, which `prior_scale` stands in for. "
            f"Received: {model.name!r} with {len(model.losses)}. Hint: leave them out."
        )


def check_precision(model: keras.Model, variables: list[keras.Variable]) -> None:
    """Raises ValueError if layers of variables that are sampled compute in half precision."""
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
            "Expected layers that compute in float32 or float64, as energies are accepted by "
            f"differences of a fraction of a nat. Received: {names} in half precision. "
            'Hint: dtype="float32".'
        )


def check_statistics(model: keras.Model) -> None:
    """Raises ValueError if the chains' trainings would change what is no weight."""
    names = trained_normalizations(model)
    if names:
        raise ValueError(
            "Expected a `model` without batch statistics, which every chain would have its own "
            f"of. Received: {names}. Hint: LayerNormalization, or variables='last_layer'."
        )


def read_all(x: Any, y: Any, sample_weight: Any, num_weights: int, most: int) -> Data:
    """Returns all rows, unless they are too many for steps that read each of them.

    Args:
        x: Arrays or a dataset.
        y: Targets beside arrays.
        sample_weight: Weights beside arrays.
        num_weights: P.
        most: Largest product of P and the number of rows.

    Raises:
        ValueError: If there are no rows or too many.
    """
    parts: list[tuple] = []
    num_rows = 0
    for batch in labelled_batches(x, y, sample_weight, _BATCH_SIZE):
        parts.append(batch)
        num_rows += count_rows(batch[0])
        if num_rows * num_weights > most:
            raise ValueError(
                "Expected few weights and few rows, because each step of a chain reads every row: "
                f"their product at most {most:,}. Received: {num_weights:,} weights and "
                f"{num_rows:,} rows or more. Hint: variables='last_layer', fewer rows, or SWAG "
                "and DeepEnsemble, which read batches."
            )
    check_integers(1, num_rows=num_rows)
    if parts[0][1] is None:
        raise ValueError("Expected targets. Received: y=None. Hint: fit(model, x, y).")
    x, y, sample_weight = (
        None if column[0] is None else keras.tree.map_structure(_concatenate, *column)
        for column in zip(*parts)
    )
    return x, y, sample_weight


def _concatenate(*rows) -> np.ndarray:
    return np.concatenate([np.asarray(each) for each in rows])


def _as_tensor(array):
    return None if array is None else tf.convert_to_tensor(array)
