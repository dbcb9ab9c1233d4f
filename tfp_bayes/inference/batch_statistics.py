"""Batch-normalization statistics that match given weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import batches, count_rows
from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.prediction.inference_mode import is_seed
from tfp_bayes.prediction.inputs import signature


class BatchStatistics:
    """An estimator of a model's moving statistics for other weights. It does not change the model.

    The moving averages from training belong to the weights of that time, so they are wrong for
    weights drawn from a posterior. The estimates are means over one pass through the data in
    training mode, in which each batch is weighted by its number of rows.

    Args:
        model: A built model.
        x: Inputs, as for `batches`.
        batch_size: Rows in a batch, if `x` holds arrays. Use the batch size of training, because
            the variance within small batches is smaller.
        seed: Integer or pair of int32, for the order of the rows and for noise such as dropout.

    Attributes:
        variables: The variables that are estimated. Empty if training updates no statistics.

    Raises:
        ValueError: If training changes the state of a layer other than `BatchNormalization`, since
            it is not known how to estimate that state.

    Reference:
        Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization",
        section 3.2, arXiv:1803.05407.
    """

    def __init__(self, model: keras.Model, x: Any, batch_size: int, seed: Any = 0):
        self.model = model
        self._x = x
        self._batch_size = batch_size
        self._seed = as_seed(seed)
        self._momentum = {
            id(variable): layer.momentum
            for layer in flatten_layers(model)
            if _is_known(layer)
            for variable in (layer.moving_mean, layer.moving_variance)
        }
        if not model.built:
            raise ValueError(
                f"Expected a built `model`. Received: {model.name!r} without weights. "
                "Hint: start it with keras.Input, or call it once on a batch."
            )
        first = keras.tree.map_structure(tf.convert_to_tensor, next(batches(x, batch_size)))
        self.variables: list[keras.Variable] = []
        self._others = model.weights
        updated: set[int] = set()
        discover = tf.function(
            lambda inputs: updated.update(self._updates(inputs, 0, [])), autograph=False
        )
        discover.get_concrete_function(first)
        # Frozen layers do not update their statistics.
        self.variables = [v for v in model.weights if id(v) in updated & set(self._momentum)]
        self._others = [v for v in model.weights if id(v) not in updated]
        self._compiled: dict[str, Any] = {}

    def __call__(
        self, variables: Sequence[keras.Variable] = (), values: Sequence[tf.Tensor] = ()
    ) -> list[np.ndarray]:
        """Return the statistics, one array for each of `self.variables`.

        Args:
            variables: Variables of the model.
            values: Values to use instead of the variables' own.
        """
        totals = [np.zeros(v.shape) for v in self.variables]
        num_rows = 0
        if not totals:
            return totals
        replaced = {id(v): value for v, value in zip(variables, values, strict=True)}
        weights = [tf.convert_to_tensor(replaced.get(id(v), v.value)) for v in self._others]
        for i, batch in enumerate(self._batches()):
            found = self._function(batch)(batch, i, weights)
            rows = int(keras.tree.flatten(batch)[0].shape[0])
            num_rows += rows
            for total, each in zip(totals, found):
                total += rows * np.asarray(each, "float64")
        return [(t / num_rows).astype(v.dtype) for t, v in zip(totals, self.variables)]

    def _batches(self) -> Iterator:
        if isinstance(self._x, tf.data.Dataset | keras.utils.PyDataset):
            source = batches(self._x, self._batch_size)
            yield from (keras.tree.map_structure(tf.convert_to_tensor, each) for each in source)
            return
        # Shuffle, because rows sorted by class would give batches with too little variance.
        num_rows = count_rows(self._x)
        order = tf.random.experimental.stateless_shuffle(tf.range(num_rows), self._seed).numpy()
        for start in range(0, num_rows, self._batch_size):
            rows = np.sort(order[start : start + self._batch_size])
            yield keras.tree.map_structure(
                lambda a, rows=rows: tf.gather(tf.convert_to_tensor(a), rows), self._x
            )

    def _function(self, batch) -> tf.types.experimental.PolymorphicFunction:
        """Return the graph for batches with the signature of `batch` and any number of rows."""
        spec = signature(self.model, batch)
        if repr(spec) not in self._compiled:
            weights = [tf.TensorSpec(v.shape, v.dtype) for v in self._others]
            self._compiled[repr(spec)] = tf.function(
                self._estimate,
                input_signature=[spec, tf.TensorSpec([], tf.int32), weights],
                autograph=False,
            )
        return self._compiled[repr(spec)]

    def _estimate(self, inputs, index, weights) -> list[tf.Tensor]:
        """Build the graph that computes the statistics of one batch."""
        updates = self._updates(inputs, index, weights)
        # The variables are set to zero, so an update is the batch's statistic times 1 - momentum.
        return [
            tf.add_n(updates[id(v)]) / (len(updates[id(v)]) * (1.0 - self._momentum[id(v)]))
            for v in self.variables
        ]

    def _updates(self, inputs, index, weights) -> dict[int, list[tf.Tensor]]:
        """Run the model in training mode, and return the updates of variables by their id."""
        seeds = [v for v in self.model.variables if is_seed(v)]
        state = [(v, tf.cast(fold_in(self._seed, index, i), v.dtype)) for i, v in enumerate(seeds)]
        state += [(v, tf.zeros(v.shape, v.dtype)) for v in self.variables]
        state += zip(self._others, weights)
        statistics = [v for v in self.model.weights if id(v) in self._momentum]
        with _UpdatesNoted(state, statistics) as scope:
            self.model(inputs, training=True)
        known = set(self._momentum) | {id(v) for v in seeds}
        for layer in reversed(flatten_layers(self.model)):
            for v in layer.variables:
                is_new = id(v) in scope.updates and id(v) not in known
                if is_new and keras.backend.is_float_dtype(v.dtype):
                    raise _unknown_state(layer, v)
        return scope.updates


class _UpdatesNoted(keras.StatelessScope):
    """A scope that records all updates of variables, and does not apply those of some variables."""

    def __init__(self, state: list[tuple], kept: Sequence[keras.Variable]):
        super().__init__(state, collect_losses=True)
        self.updates: dict[int, list] = {}
        self._kept = {id(v) for v in kept}

    def add_update(self, update: tuple) -> None:
        variable, value = update
        self.updates.setdefault(id(variable), []).append(value)
        if id(variable) not in self._kept:
            super().add_update(update)


def trained_normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the layers whose batch statistics training would change."""
    return [
        layer
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def _is_known(layer: keras.layers.Layer) -> bool:
    """Return whether a layer's statistics are the usual moving averages of Keras."""
    is_keras_own = (
        isinstance(layer, keras.layers.BatchNormalization)
        and type(layer).call is keras.layers.BatchNormalization.call
    )
    return is_keras_own and layer.momentum < 1 and not getattr(layer, "renorm", False)


def _unknown_state(layer: keras.layers.Layer, variable: keras.Variable) -> ValueError:
    return ValueError(
        "Expected `BatchNormalization`, without renorm and with a momentum below 1, as the only "
        f"layer whose state changes in training. Received: {layer.name!r} of type "
        f"{type(layer).__name__}, which updates {variable.name!r}. Hint: freeze it, or use an "
        "ensemble or CyclicalSGHMC, whose draws include the state at the end of training."
    )
