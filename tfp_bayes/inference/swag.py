"""SWAG: a normal distribution fitted to the weights in the last epochs of training."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import Configured, check_positive
from tfp_bayes._plumbing.fresh import assign_values, fresh_optimizer_values, initialize
from tfp_bayes.inference.batch_statistics import BatchStatistics
from tfp_bayes.inference.materialize import check_finite_draws, keep_draws
from tfp_bayes.inference.member import member_seed
from tfp_bayes.inference.snapshots import Moments, current_rate
from tfp_bayes.inference.stored_posterior import StoredPosterior
from tfp_bayes.inference.swag_posterior import SWAGPosterior
from tfp_bayes.inference.training import check_compiled, train

DEFAULT_NUM_DRAWS = 30  # for networks with batch normalization, as in the paper


class SWAG(Configured):
    """SWA-Gaussian (SWAG): fits the posterior to snapshots of the weights, one per epoch.

    Use it if you can afford one training run but not an ensemble. Train as usual, then continue
    for about twenty epochs with a high constant learning rate, which lets the weights move around
    a minimum. Their mean and covariance define a normal distribution.

    The result is a `SWAGPosterior`, or a `StoredPosterior` if `num_draws` is given or the network
    has `BatchNormalization`, whose statistics are estimated separately for each draw.

    Args:
        rank: Number of latest snapshots K for the low-rank part of the covariance, at least 2. The
            mean and the diagonal part use all snapshots. 0 is stochastic weight averaging (SWA),
            with the mean as the only stored draw.
        num_snapshots: Number of snapshots, one at the end of each of the last epochs of `fit`.
            Earlier epochs are ordinary training.
        learning_rate: Constant learning rate for the epochs with snapshots, such as 0.01 for SGD
            with momentum. None leaves it to the model's optimizer, with a warning if it falls.
        num_draws: Number of stored draws S. None returns a `SWAGPosterior`, or 30 stored draws for
            a network with batch normalization.
        temperature: Factor T that multiplies the covariance. 1 follows the paper; smaller values
            give draws closer to the mean.
        seed: Integer, for the order of the examples and for stored draws.
        directory: Folder for a checkpoint, from which a killed `fit` resumes with bit-identical
            results. None saves no checkpoint.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning",
        algorithm 1, arXiv:1902.02476. The covariance follows the paper; the authors' code uses
        twice this covariance by default.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    >>> x, y = np.random.normal(size=(64, 2)), np.random.randint(0, 3, 64)
    >>> posterior = SWAG(rank=5, num_snapshots=5).fit(model, x, y, epochs=7, verbose=0)
    >>> predictor = Predictor(model, posterior=posterior)
    >>> predictor.predict_uncertainty(x, num_samples=30, seed=0).mean.shape
    (64, 3)
    """

    def __init__(
        self,
        rank: int = 20,
        *,
        num_snapshots: int = 20,
        learning_rate: float | None = None,
        num_draws: int | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        directory: str | Path | None = None,
    ):
        check_integers(0, rank=rank, seed=seed)
        check_integers(1, num_snapshots=num_snapshots)
        if rank == 1 or 0 < rank > num_snapshots:
            raise ValueError(
                "Expected a `rank` from 2 to `num_snapshots`, or 0 for the mean only. Received: "
                f"rank={rank}, num_snapshots={num_snapshots}. "
                "Hint: a covariance needs at least 2 snapshots; 20 is a common choice."
            )
        if learning_rate is not None:
            check_positive(learning_rate=learning_rate)
        if num_draws is not None:
            check_integers(1, num_draws=num_draws)
        check_positive(temperature=temperature)
        if not rank and temperature != 1:
            raise ValueError(
                "Expected temperature=1 with rank=0, because the mean has no covariance. "
                f"Received: temperature={temperature!r}. Hint: rank=20 is a common choice."
            )
        self.rank = rank
        self.num_snapshots = num_snapshots
        self.learning_rate = learning_rate
        self.num_draws = num_draws
        self.temperature = float(temperature)
        self.seed = seed
        self.directory = None if directory is None else str(directory)

    def fit(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        epochs: int,
        batch_size: int = 32,
        **fit_arguments: Any,
    ) -> SWAGPosterior | StoredPosterior:
        """Train a model, starting from its current weights, and return the posterior.

        Afterwards, the model has the weights of the last step, and its optimizer has the learning
        rate it had before.

        Args:
            model: Compiled Keras model. It should be pretrained if `epochs` = `num_snapshots`.
            x: Arrays (N, ...), a structure of them, or a dataset with targets.
            y: Targets (N, ...), if `x` holds arrays.
            epochs: Total number of epochs, at least `num_snapshots`.
            batch_size: Rows in a batch, if `x` holds arrays.
            **fit_arguments: Further arguments of Keras' `fit`.

        Returns:
            A `SWAGPosterior` over the trainable variables, or stored draws, see `SWAG`.

        Raises:
            ValueError: If the model is not compiled, there are fewer epochs than snapshots, or
                training diverged.
        """
        return self._fit(model, x, y, self.seed, "swag", epochs, batch_size, fit_arguments)

    def _fit(
        self, model, x, y, seed: int, name: str, epochs: int, batch_size: int, fit_arguments: dict
    ) -> SWAGPosterior | StoredPosterior:
        check_compiled(model)
        check_integers(self.num_snapshots, epochs=epochs)
        statistics = BatchStatistics(model, x, batch_size, seed)
        start = epochs - self.num_snapshots
        moments = Moments(model.trainable_variables, start, self.rank, self.learning_rate)
        with _kept_rate(model, self.learning_rate):
            train(
                model,
                x,
                y,
                epochs=epochs,
                seed=seed,
                batch_size=batch_size,
                recorder=moments,
                path=None if self.directory is None else Path(self.directory) / f"{name}.npz",
                settings={**self._identity(), "epochs": epochs},
                **fit_arguments,
            )
        moments.warn_of_training()
        return self._posterior(model, moments, statistics, seed)

    def _posterior(
        self, model: keras.Model, moments: Moments, statistics: BatchStatistics, seed: int
    ) -> SWAGPosterior | StoredPosterior:
        variables = model.trainable_variables
        if moments.count < self.num_snapshots:
            raise ValueError(
                f"Expected {self.num_snapshots} snapshots. Received: {moments.count}, because "
                "training stopped early. Hint: do not use EarlyStopping or similar callbacks."
            )
        check_finite_draws(moments.mean, variables)
        if not self.rank:
            mean = [tf.cast(value, v.dtype) for value, v in zip(moments.mean, variables)]
            values = [np.asarray(value) for value in [*mean, *statistics(variables, mean)]]
            return StoredPosterior(
                model, [v[np.newaxis] for v in values], [*variables, *statistics.variables]
            )
        scale = [np.sqrt(each / (moments.count - 1)) for each in moments.squares]
        posterior = SWAGPosterior(
            model, moments.mean, scale, moments.deviations(), variables, self.temperature
        )
        if self.num_draws is None and not statistics.variables:
            return posterior
        num_draws = self.num_draws or DEFAULT_NUM_DRAWS
        return keep_draws(posterior, num_draws, seed, statistics)

    def _identity(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share with the interrupted one."""
        settings = self.get_config()
        for name in ("seed", "directory", "num_draws", "temperature"):
            del settings[name]
        return {"method": type(self).__name__, **settings}


class MultiSWAG(Configured):
    """A mixture of several SWAG posteriors, each from a separate training run.

    Use it if you can afford an ensemble. The members cover different modes of the posterior, and
    SWAG adds the spread around each. All draws are stored and have equal weight.

    Args:
        num_members: Number of members M.
        draws_per_member: Number of stored draws for each member. The total is M times as many.
        rank: See `SWAG`. 0 stores only the mean of each member (MultiSWA).
        num_snapshots: See `SWAG`.
        learning_rate: See `SWAG`.
        temperature: Factor that multiplies the covariance of each member, see `SWAG`.
        seed: Integer. A member depends only on `seed` and its number.
        directory: See `SWAG`. Each member has its own file.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Wilson and Izmailov 2020, "Bayesian Deep Learning and a Probabilistic Perspective of
        Generalization", section 3.2, arXiv:2002.08791.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    >>> x, y = np.random.normal(size=(64, 2)), np.random.randint(0, 3, 64)
    >>> method = MultiSWAG(2, draws_per_member=4, rank=3, num_snapshots=3)
    >>> method.fit(model, x, y, epochs=4, verbose=0).num_draws
    8
    """

    def __init__(
        self,
        num_members: int = 5,
        *,
        draws_per_member: int = 6,
        rank: int = 20,
        num_snapshots: int = 20,
        learning_rate: float | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        directory: str | Path | None = None,
    ):
        check_integers(1, num_members=num_members, draws_per_member=draws_per_member)
        self.num_members = num_members
        self.draws_per_member = draws_per_member
        self._member = SWAG(
            rank,
            num_snapshots=num_snapshots,
            learning_rate=learning_rate,
            num_draws=draws_per_member,
            temperature=temperature,
            seed=seed,
            directory=directory,
        )

    def fit(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        epochs: int,
        batch_size: int = 32,
        **fit_arguments: Any,
    ) -> StoredPosterior:
        """Train the members one after another in the given model, from new initial weights.

        Frozen layers and layers that were adapted to data keep their values in every member.
        Afterwards, the model has the weights of the last step of the last member.

        Args:
            model: Compiled Keras model. The model and its layers must implement `get_config`.
            x: See `SWAG.fit`.
            y: See `SWAG.fit`.
            epochs: Number of epochs for each member, at least `num_snapshots`.
            batch_size: See `SWAG.fit`.
            **fit_arguments: Further arguments of Keras' `fit`.

        Returns:
            The stored draws, ordered by member.

        Raises:
            ValueError: See `SWAG.fit`.
        """
        check_compiled(model)
        unused = fresh_optimizer_values(model)
        members = []
        for i in range(self.num_members):
            seed = member_seed(self._member.seed, i)
            initialize(model, seed, own_seeds=False)
            assign_values(model.optimizer.variables, unused)
            name = f"member_{i}"
            members.append(
                self._member._fit(model, x, y, seed, name, epochs, batch_size, dict(fit_arguments))
            )
        arrays = [member.get_state()[0] for member in members]
        draws = [np.concatenate([each[name] for each in arrays]) for name in arrays[0]]
        return StoredPosterior(model, draws, members[0].variables)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain JSON."""
        settings = self._member.get_config()
        del settings["num_draws"]
        own = {"num_members": self.num_members, "draws_per_member": self.draws_per_member}
        return own | settings


@contextlib.contextmanager
def _kept_rate(model: keras.Model, changed: float | None) -> Iterator[None]:
    """Restore the optimizer's learning rate at the end; refuse a schedule if it is to change."""
    if changed is None:
        yield
        return
    before = current_rate(model.optimizer)
    try:
        model.optimizer.learning_rate = before
    except TypeError:
        raise ValueError(
            "Expected an optimizer whose learning rate is a number, to be replaced with "
            f"`learning_rate`. Received: learning_rate={changed} and {model.optimizer.name!r} "
            "with a schedule. Hint: use SGD(0.05, momentum=0.9), or learning_rate=None and a "
            "schedule that ends with a constant value."
        ) from None
    try:
        yield
    finally:
        model.optimizer.learning_rate = before
