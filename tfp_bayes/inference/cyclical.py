"""Cyclical stochastic gradient MCMC, which samples several modes of the posterior in one run."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import count_rows
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import Configured, check_positive
from tfp_bayes._plumbing.keras_internals import timestep_mask
from tfp_bayes._plumbing.losses import check_likelihood, check_mean
from tfp_bayes.inference.materialize import check_finite_draws
from tfp_bayes.inference.snapshots import Snapshots
from tfp_bayes.inference.stochastic_gradient import SGHMC, CosineCycles, LateNoise
from tfp_bayes.inference.stored_posterior import StoredPosterior
from tfp_bayes.inference.training import check_compiled, train


class CyclicalSGHMC(Configured):
    """Cyclical SGHMC: takes snapshots at the end of each cycle of the learning rate.

    Use it if you can afford one long run and want several modes of the posterior. Each cycle
    starts with a learning rate high enough to leave the previous mode. The learning rate then
    falls along a cosine, and the cycle ends with steps of `SGHMC`, from which snapshots of the
    weights are taken. The optimizer that the model was compiled with is not used.

    The loss must be the mean NLL plus the negative log prior divided by N, as in a `BayesianModel`
    with `prior_scale`, see `SGHMC`.

    Args:
        num_cycles: Number of cycles, which have equal length.
        snapshots_per_cycle: Number of snapshots in each cycle, one at the end of each of its last
            epochs. Snapshots include the statistics of `BatchNormalization`.
        learning_rate: Learning rate of the first step of each cycle.
        friction: One minus the momentum, see `SGHMC`.
        temperature: Temperature T of the steps with noise. 1 samples the Bayesian posterior. The
            reference reports results for T = 1 / 50,000, at which snapshots are close to modes.
        noise_epochs: Number of epochs with noise at the end of each cycle. None means
            `snapshots_per_cycle` + 2.
        seed: Integer, for the order of the examples and for the noise.
        directory: Folder for a checkpoint, from which a killed `fit` resumes with bit-identical
            results. None saves no checkpoint.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Zhang et al. 2020, "Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning",
        algorithm 1, arXiv:1902.03932.

    Example:

    >>> inputs = keras.Input((2,))
    >>> model = tfp_bayes.BayesianModel(
    ...     inputs, keras.layers.Dense(3, "softmax")(inputs), prior_scale=1.0, num_samples=1)
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> x, y = np.random.normal(size=(64, 2)), np.random.randint(0, 3, 64)
    >>> method = CyclicalSGHMC(num_cycles=2, snapshots_per_cycle=2)
    >>> method.fit(model, x, y, epochs=8, verbose=0).num_draws
    4
    """

    def __init__(
        self,
        num_cycles: int = 4,
        *,
        snapshots_per_cycle: int = 3,
        learning_rate: float = 0.1,
        friction: float = 0.1,
        temperature: float = 1.0,
        noise_epochs: int | None = None,
        seed: int = 0,
        directory: str | Path | None = None,
    ):
        check_integers(1, num_cycles=num_cycles, snapshots_per_cycle=snapshots_per_cycle)
        check_integers(0, seed=seed)
        check_positive(learning_rate=learning_rate, friction=friction, temperature=temperature)
        if noise_epochs is None:
            noise_epochs = snapshots_per_cycle + 2
        check_integers(snapshots_per_cycle, noise_epochs=noise_epochs)
        self.num_cycles = num_cycles
        self.snapshots_per_cycle = snapshots_per_cycle
        self.learning_rate = learning_rate
        self.friction = friction
        self.temperature = temperature
        self.noise_epochs = noise_epochs
        self.seed = seed
        self.directory = None if directory is None else str(directory)

    def fit(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        epochs: int,
        num_observations: int | None = None,
        batch_size: int = 32,
        **fit_arguments: Any,
    ) -> StoredPosterior:
        """Run the chain in a model, starting from its current weights.

        Afterwards, the model has the weights of the last step, and its original optimizer.

        Args:
            model: Compiled Keras model.
            x: Arrays (N, ...), a structure of them, or a dataset with targets.
            y: Targets (N, ...), if `x` holds arrays.
            epochs: Total number of epochs in all cycles.
            num_observations: Number of observations N that the loss is the mean over. None counts
                rows, times the pixels or outputs per row that Keras' cross-entropies average over.
                Required for datasets, several outputs, masked outputs and other losses.
            batch_size: Rows in a batch, if `x` holds arrays.
            **fit_arguments: Further arguments of Keras' `fit`.

        Returns:
            num_cycles * snapshots_per_cycle draws of all weights, in the order of the chain.

        Raises:
            ValueError: If the model is not compiled, its loss is not a mean or has label smoothing,
                the epochs do not divide into cycles, the cycles are too short, N is unknown, or
                the chain diverged.
        """
        check_compiled(model)
        for loss in keras.tree.flatten(model.loss):
            check_mean(loss, "the noise is for a mean over observations")
            check_likelihood(loss, "the chain samples the posterior that it states")
        cycle_epochs = self._cycle_epochs(epochs)
        steps = _steps_per_epoch(x, batch_size, fit_arguments)
        _warn_of_flat_prior(model)
        optimizer = SGHMC(
            CosineCycles(self.learning_rate, cycle_epochs * steps),
            _count_observations(model, x) if num_observations is None else num_observations,
            self.friction,
            LateNoise(self.temperature, cycle_epochs * steps, self.noise_epochs * steps),
            self.seed,
        )
        snapshots = Snapshots(
            epoch
            for epoch in range(epochs)
            if epoch % cycle_epochs >= cycle_epochs - self.snapshots_per_cycle
        )
        settings = {**self.get_config(), "num_train": optimizer.num_train, "epochs": epochs}
        del settings["directory"]
        with _optimized_by(model, optimizer):
            train(
                model,
                x,
                y,
                epochs=epochs,
                seed=self.seed,
                batch_size=batch_size,
                recorder=snapshots,
                path=None if self.directory is None else Path(self.directory) / "cyclical.npz",
                settings={"method": "CyclicalSGHMC", **settings},
                **fit_arguments,
            )
        expected = self.num_cycles * self.snapshots_per_cycle
        if len(snapshots.draws) != expected:
            raise ValueError(
                f"Expected {expected} snapshots. Received: {len(snapshots.draws)}, because "
                "training stopped early. Hint: do not use EarlyStopping or similar callbacks."
            )
        draws = [np.stack(same) for same in zip(*snapshots.draws)]
        check_finite_draws(draws, model.weights)
        return StoredPosterior(model, draws)

    def _cycle_epochs(self, epochs: int) -> int:
        check_integers(1, epochs=epochs)
        length, rest = divmod(epochs, self.num_cycles)
        if rest or length < self.noise_epochs:
            raise ValueError(
                f"Expected `epochs` to divide into {self.num_cycles} cycles of equal length, with "
                f"at least {self.noise_epochs} epochs each for the noise. Received: "
                f"epochs={epochs}. "
                f"Hint: try epochs={self.num_cycles * max(10, 2 * self.noise_epochs)}."
            )
        return length


@contextlib.contextmanager
def _optimized_by(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Replace the optimizer of a compiled model inside the context."""
    before = model.optimizer
    if isinstance(before, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    # The graph of the train function contains the optimizer, so it must be traced again.
    model.optimizer, model.train_function = optimizer, None
    try:
        yield
    finally:
        model.optimizer, model.train_function = before, None


def _steps_per_epoch(x: Any, batch_size: int, fit_arguments: dict) -> int:
    steps = fit_arguments.get("steps_per_epoch")
    if steps is None and isinstance(x, keras.utils.PyDataset):
        steps = x.num_batches
    elif steps is None and isinstance(x, tf.data.Dataset):
        steps = int(x.cardinality())
    elif steps is None:
        steps = math.ceil(count_rows(x) / batch_size)
    if steps is None or steps < 1:
        raise ValueError(
            "Expected data with a known number of batches, which determines the length of a cycle. "
            f"Received: a {type(x).__name__} of unknown length. Hint: use "
            "dataset.apply(tf.data.experimental.assert_cardinality(n)), or pass steps_per_epoch."
        )
    return steps


def _count_observations(model: keras.Model, x: Any) -> int:
    """Return the number of values that the loss is the mean over, if this is known."""
    loss = model.loss
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    outputs = getattr(model, "outputs", None) or []
    values: tuple = (None,)
    # A mask or an ignored class would lower the number.
    is_partial = getattr(loss, "ignore_class", None) is not None
    if len(outputs) == 1 and timestep_mask(outputs[0]) is None and not is_partial:
        shape = outputs[0].shape[1:]
        if name in ("sparse_categorical_crossentropy", "categorical_crossentropy", "normal_nll"):
            values = shape[:-1]
        elif name == "binary_crossentropy":
            values = shape  # this loss averages over the last axis too
    is_dataset = isinstance(x, tf.data.Dataset | keras.utils.PyDataset)
    if is_dataset or None in values:
        raise ValueError(
            "Expected `num_observations`, the number of observations that the loss is the mean "
            "over, which scales the noise. Received: num_observations=None, loss "
            f"{name or loss!r}, {'a dataset' if is_dataset else 'arrays'}. "
            "Hint: pass num_observations=60_000, for example; for a loss per pixel it is examples "
            "times pixels. The loss must be a negative log likelihood, which the mean squared "
            "error is not."
        )
    return count_rows(x) * math.prod(values)


def _warn_of_flat_prior(model: keras.Model) -> None:
    if getattr(model, "prior_scale", None) is None and not model.losses:
        warnings.warn(
            f"Model {model.name!r} has no prior, so nothing constrains weights that the data do "
            "not determine. Use BayesianModel(prior_scale=1.0) or regularizers.",
            stacklevel=3,
        )
