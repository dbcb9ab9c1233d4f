"""Cyclical stochastic gradient MCMC: several modes, and samples around each, from one run."""

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
from tfp_bayes.inference.materialize import check_finite_draws
from tfp_bayes.inference.snapshots import Snapshots
from tfp_bayes.inference.stochastic_gradient import SGHMC, CosineCycles, LateNoise
from tfp_bayes.inference.stored_posterior import StoredPosterior
from tfp_bayes.inference.training import check_compiled, train


class CyclicalSGHMC(Configured):
    """Cyclical SGHMC: snapshots from the cool end of each cycle of the learning rate.

    Use it where one long run is affordable and several explanations of the data are wanted: each
    cycle starts with a rate high enough to leave the mode before, falls along a cosine, and ends
    in steps of `SGHMC`, of which weights are kept. The optimizer that the model was compiled with
    is not used.

    The loss has to be the mean NLL plus the negative log prior divided by N, as that of
    `BayesianModel` with `prior_scale` is, see `SGHMC`.

    Args:
        num_cycles: Cycles, of equal length.
        snapshots_per_cycle: Of the last so many epochs of a cycle, the weights at the end are
            kept, statistics of `BatchNormalization` included.
        learning_rate: That of a cycle's first step.
        friction: One minus the momentum, see `SGHMC`.
        temperature: T of the steps with noise. 1 is Bayes; the figures of the reference are those
            of 1 / 50,000, where snapshots are little more than modes.
        noise_epochs: The last so many epochs of a cycle have noise; None takes two more than
            there are snapshots.
        seed: Integer: order of the examples, and noise.
        directory: Folder for the state of training, from which a killed `fit` goes on to the same
            bits; None keeps none.

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
        """Runs the chain in a model, from the weights that it has, and returns the snapshots.

        The model ends with the weights of the last step, and the optimizer that it had.

        Args:
            model: Compiled.
            x: Arrays (N, ...), a structure of them, or a dataset with targets.
            y: Targets (N, ...) beside arrays.
            epochs: Of all cycles together.
            num_observations: N, of which the loss is the mean. None counts rows, times the pixels
                or outputs of each over which Keras' cross-entropies average; needed for datasets,
                for several outputs and for other losses.
            batch_size: Rows of a step, for arrays.
            **fit_arguments: Others of Keras' `fit`.

        Returns:
            num_cycles * snapshots_per_cycle draws of all weights, in the order of the chain.

        Raises:
            ValueError: If the model is not compiled, cycles are too short or not whole, N is not
                known, or the chain diverged.
        """
        check_compiled(model)
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
                f"Expected {expected} snapshots. Received: {len(snapshots.draws)}, after which "
                "training was stopped. Hint: leave out EarlyStopping and the like."
            )
        draws = [np.stack(same) for same in zip(*snapshots.draws)]
        check_finite_draws(draws, model.weights)
        return StoredPosterior(model, draws)

    def _cycle_epochs(self, epochs: int) -> int:
        check_integers(1, epochs=epochs)
        length, rest = divmod(epochs, self.num_cycles)
        if rest or length < self.noise_epochs:
            raise ValueError(
                f"Expected {self.num_cycles} cycles of equal length, each of at least the "
                f"{self.noise_epochs} epochs with noise, for `epochs`. Received: epochs={epochs}. "
                f"Hint: epochs={self.num_cycles * max(10, 2 * self.noise_epochs)}."
            )
        return length


@contextlib.contextmanager
def _optimized_by(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Gives a compiled model another optimizer for a while."""
    before = model.optimizer
    if isinstance(before, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    # Its graph holds the optimizer.
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
            "Expected data whose number of batches is known, which makes the length of a cycle. "
            f"Received: a {type(x).__name__} of unknown length. "
            "Hint: dataset.apply(tf.data.experimental.assert_cardinality(n)), or steps_per_epoch=."
        )
    return steps


def _count_observations(model: keras.Model, x: Any) -> int:
    """Returns the number of values of which the loss is the mean, where that is plain to see."""
    loss = model.loss
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    outputs = getattr(model, "outputs", None) or []
    shape = outputs[0].shape[1:] if len(outputs) == 1 else (None,)
    values: tuple = (None,)
    if name in ("sparse_categorical_crossentropy", "categorical_crossentropy", "normal_nll"):
        values = shape[:-1]
    elif name == "binary_crossentropy":
        values = shape  # over whose last axis it averages too
    is_dataset = isinstance(x, tf.data.Dataset | keras.utils.PyDataset)
    if is_dataset or None in values:
        raise ValueError(
            "Expected `num_observations`, of which the loss is the mean and by which the noise is "
            f"scaled. Received: num_observations=None, loss {name or loss!r}, "
            f"{'a dataset' if is_dataset else 'arrays'}. Hint: fit(..., "
            "num_observations=60_000), examples times pixels for a loss of each pixel; the "
            "loss has to be a negative log likelihood, which mean squared error is not."
        )
    return count_rows(x) * math.prod(values)


def _warn_of_flat_prior(model: keras.Model) -> None:
    if getattr(model, "prior_scale", None) is None and not model.losses:
        warnings.warn(
            f"Model {model.name!r} has no prior: nothing holds the weights that the data do not "
            "determine. Use BayesianModel(prior_scale=1.0), or regularizers.",
            stacklevel=3,
        )
