"""Joint training of the members of a BatchEnsemble in one model."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes.inference.batch_statistics import trained_normalizations
from tfp_bayes.inference.rank_one import (
    COLUMNS,
    OWN,
    ROWS,
    SHARED,
    factor_shapes,
    member_value,
)


class Members(keras.callbacks.Callback):
    """Weights of all members during training, and the `Recorder` that saves them.

    Each trainable variable of the model becomes a shared kernel with factors, or one copy per
    member. Moving statistics of `BatchNormalization` become copies, too.

    Args:
        model: Built model whose weights the members start from.
        num_members: Number of members M.
        factor_scale: Standard deviation of the initial factors, whose mean is 1.
        seed: Integer, for the initial factors.

    Attributes:
        num_members: As given.
        statistics: Variables of the model that a forward pass updates.
        replaced: Variables of the model that members have their own values of; `statistics` come
            last.
        parts: For each of them, Keras variables by name, see `member_value`.
    """

    def __init__(self, model: keras.Model, num_members: int, factor_scale: float, seed: int):
        super().__init__()
        self.num_members = num_members
        self.statistics = [
            variable
            for layer in trained_normalizations(model)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        self.replaced = [*model.trainable_variables, *self.statistics]
        self.parts: list[dict[str, keras.Variable]] = []
        random, shapes = np.random.default_rng(seed), factor_shapes(model)
        with model.distribute_strategy.scope():
            for variable in self.replaced:
                value = variable.numpy()
                values = {OWN: np.stack([value] * num_members)}
                if id(variable) in shapes:
                    rows, columns = (
                        random.normal(1.0, factor_scale, (num_members, *shape))
                        for shape in shapes[id(variable)]
                    )
                    values = {SHARED: value, ROWS: rows, COLUMNS: columns}
                self.parts.append(
                    {name: _like(variable, name, each) for name, each in values.items()}
                )

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Variables that the optimizer updates."""
        return [each for of in self.parts for each in of.values() if each.trainable]

    @property
    def factors(self) -> list[keras.Variable]:
        """Factors among the trainable variables."""
        return [of[name] for of in self.parts if SHARED in of for name in (ROWS, COLUMNS)]

    def state(self, index: int) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Return pairs of a model variable and its value for a member."""
        return [(v, member_value(of, index)) for v, of in zip(self.replaced, self.parts)]

    def assign_statistics(self, values: list[list[tf.Tensor]]) -> None:
        """Store the statistics after the pass of each member."""
        parts = self.parts[len(self.parts) - len(self.statistics) :]
        for of, each in zip(parts, zip(*values), strict=True):
            of[OWN].assign(tf.stack(each))

    def get_state(self) -> dict[str, np.ndarray]:
        """See `Recorder.get_state`."""
        parts = enumerate(self.parts)
        return {f"{name}_{i}": each.numpy() for i, of in parts for name, each in of.items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Recorder.set_state`."""
        for i, of in enumerate(self.parts):
            for name, variable in of.items():
                variable.assign(state[f"{name}_{i}"])


class MemberSteps:
    """Training and test steps that run the model once per member, with the member's weights.

    A whole pass uses the weights of one member, so all layers agree on the member, whatever they
    do with the batch axis.

    Args:
        model: Compiled model.
        members: Weights of the members.
        split_batches: Whether each member sees a share of the batch instead of the whole batch.
    """

    def __init__(self, model: keras.Model, members: Members, split_batches: bool):
        self.model = model
        self.members = members
        self.split_batches = split_batches

    def train_step(self, data: Any) -> dict:
        """Take an optimizer step on the mean loss of the members."""
        variables = [v.value for v in self.members.trainable_variables]
        with tf.GradientTape() as tape:
            losses, results = self._run(data, training=True)
            loss = self.model.optimizer.scale_loss(tf.add_n(losses) / len(losses))
        self.model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return results

    def test_step(self, data: Any) -> dict:
        """Return the loss and the metrics, averaged over members."""
        return self._run(data, training=False)[1]

    def _run(self, data: Any, training: bool) -> tuple[list[tf.Tensor], dict]:
        losses, statistics = [], []
        for index in range(self.members.num_members):
            rows = self._share(data, index) if training and self.split_batches else data
            x, y, weight = keras.utils.unpack_x_y_sample_weight(rows)
            state = self.members.state(index)
            with keras.StatelessScope(state, collect_losses=True) as scope:
                before = dict(scope.state_mapping)
                outputs = self.model(x, training=training)
                losses.append(self.model.compute_loss(x, y, outputs, weight, training=training))
            self._carry_over(scope, before)
            statistics.append([scope.get_current_value(v) for v in self.members.statistics])
            self._track(losses[-1], outputs, training)
            results = self.model.compute_metrics(x, y, outputs, weight)
        if training:
            self.members.assign_statistics(statistics)
        shown = getattr(self.model, "shown_results", None)
        return losses, results if shown is None else shown(results, training)

    def _share(self, data: Any, index: int) -> Any:
        """Return every M-th row; if M does not divide the batch size, some rows appear twice."""
        size, num_members = tf.shape(keras.tree.flatten(data)[0])[0], self.members.num_members
        rows = (index + num_members * tf.range(-(-size // num_members))) % size
        return keras.tree.map_structure(
            lambda each: None if each is None else tf.gather(each, rows), data
        )

    def _track(self, loss: tf.Tensor, outputs: Any, training: bool) -> None:
        """Update the displayed loss, as Keras' own steps do."""
        count = tf.shape(keras.tree.flatten(outputs)[0])[0]
        if not training:  # a BayesianModel may have several observations per row
            count = getattr(loss, "num_observations", count)
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for metric in self.model.metrics:
            if metric.name == "loss":
                metric.update_state(loss * num_replicas, sample_weight=count)

    def _carry_over(self, scope: keras.StatelessScope, before: dict) -> None:
        """Assign what a pass changed besides statistics: random states and metrics."""
        statistics = {id(v) for v in self.members.statistics}
        weights = {id(v) for v in self.model.weights if keras.backend.is_float_dtype(v.dtype)}
        known = {id(v): v for v in (*self.model.variables, *self.model.metrics_variables)}
        for key, value in scope.state_mapping.items():
            if value is before.get(key) or key in statistics:
                continue
            if key in weights or key not in known:
                raise _unknown_state(self.model, key)
            known[key].assign(value)


@contextlib.contextmanager
def trained_together(steps: MemberSteps, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Make `fit` train the members of a model, until the context ends."""
    model, before = steps.model, steps.model.optimizer
    model.optimizer = optimizer
    model.train_step, model.test_step = steps.train_step, steps.test_step
    # Compiled functions contain the steps and the optimizer.
    model.train_function = model.test_function = None
    try:
        yield
    finally:
        model.optimizer = before
        del model.train_step, model.test_step
        model.train_function = model.test_function = None


def _like(variable: keras.Variable, name: str, value: np.ndarray) -> keras.Variable:
    """Create a variable for the members' values of a model variable."""
    return keras.Variable(
        value.astype(variable.dtype),
        dtype=variable.dtype,
        trainable=variable.trainable,
        autocast=False,
        aggregation="mean",
        name=f"{variable.name}_{name}",
    )


def _unknown_state(model: keras.Model, key: int) -> ValueError:
    owners = [
        f"{layer.name!r} of type {type(layer).__name__}"
        for layer in reversed(flatten_layers(model))
        if any(id(v) == key for v in layer.variables)
    ]
    return ValueError(
        "Expected `BatchNormalization` to be the only layer whose state changes in training, apart "
        "from random states that layers own. Received: "
        f"{owners[0] if owners else 'a random state that no layer owns'}. "
        "Hint: freeze the layer, or use DeepEnsemble."
    )
