"""SWAG: a normal distribution from the way that weights take late in training."""

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

DEFAULT_NUM_DRAWS = 30  # of a network with batch normalization, as in the paper


class SWAG(Configured):
    """SWA-Gaussian: the posterior is fitted to snapshots of the weights, one an epoch.

    Use it where one training is affordable and an ensemble is not: train as usual, then go on for
    twenty epochs with a high constant learning rate, which lets the weights move around a minimum.
    Their mean and covariance make a normal distribution.

    For a network with `BatchNormalization`, whose statistics have to be estimated anew for each
    draw, and where `num_draws` is given, the result is that many stored draws.

    Args:
        rank: K, number of the last snapshots that make the low-rank part of the covariance, at
            least 2; all make the mean and the diagonal part. 0 is stochastic weight averaging
            (SWA): one stored draw, the mean.
        num_snapshots: The last so many epochs of `fit` end with a snapshot; those before are
            training as usual.
        learning_rate: Constant learning rate of the epochs with snapshots, such as 0.01 for SGD
            with momentum; None leaves it to the model's optimizer, and a fall is warned of.
        num_draws: S, to return stored draws for any network. None returns a posterior that is
            sampled, and 30 stored draws for a network with batch normalization.
        temperature: T, that the covariance is multiplied by. 1 is the paper's; below it weights are
            drawn closer to their mean.
        seed: Integer: order of the examples, and stored draws.
        directory: Folder for the state of training, from which a killed `fit` goes on to the same
            bits; None keeps none.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning",
        algorithm 1, arXiv:1902.02476. The covariance is the paper's; the authors' code draws with
        twice that unless told otherwise.

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
                "Expected a `rank` of 2 to `num_snapshots`, or 0 for the mean alone. Received: "
                f"rank={rank}, num_snapshots={num_snapshots}. "
                "Hint: the covariance of K snapshots needs 2 of them; 20 is usual."
            )
        if learning_rate is not None:
            check_positive(learning_rate=learning_rate)
        if num_draws is not None:
            check_integers(1, num_draws=num_draws)
        check_positive(temperature=temperature)
        if not rank and temperature != 1:
            raise ValueError(
                "Expected temperature=1 with rank=0, the mean alone, which has no covariance. "
                f"Received: temperature={temperature!r}. Hint: rank=20 is usual."
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
        """Trains a model from the weights that it has, and returns the posterior.

        The model ends with the weights of the last step, and its optimizer with the learning rate
        that it had.

        Args:
            model: Compiled; pretrained, if all epochs end with a snapshot.
            x: Arrays (N, ...), a structure of them, or a dataset with targets.
            y: Targets (N, ...) beside arrays.
            epochs: Epochs in all, at least `num_snapshots`.
            batch_size: Rows of a step, for arrays.
            **fit_arguments: Others of Keras' `fit`.

        Returns:
            A `SWAGPosterior` over the trainable variables, or stored draws, see the class.

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
        if moments.count < (2 if self.rank else 1):
            raise ValueError(
                f"Expected {self.num_snapshots} snapshots. Received: {moments.count}, after which "
                "training was stopped. Hint: leave out EarlyStopping and the like."
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
        return keep_draws(model, variables, posterior.draw, num_draws, seed, statistics)

    def _identity(self) -> dict[str, Any]:
        """Returns what a resumed run must have in common with the one before."""
        settings = self.get_config()
        for name in ("seed", "directory", "num_draws", "temperature"):
            del settings[name]
        return {"method": type(self).__name__, **settings}


class MultiSWAG(Configured):
    """A mixture of several SWAG posteriors, each from a training of its own.

    Use it where an ensemble is affordable: the members are different explanations of the data, and
    SWAG adds the width of each. All draws are stored and count alike.

    Args:
        num_members: M.
        draws_per_member: Stored draws of each member; there are M times as many.
        rank: As of `SWAG`; 0 takes the mean of each member (MultiSWA), one draw.
        num_snapshots: As of `SWAG`.
        learning_rate: As of `SWAG`.
        temperature: As of `SWAG`, of each member's covariance.
        seed: Integer; a member follows from (`seed`, its number).
        directory: As of `SWAG`, with a file for each member.

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
        """Trains the members one after another, in the given model, from new initial weights.

        Frozen layers, and layers adapted to data, keep their values, the same in every member.
        Afterwards the model has the weights of the last member's last step.

        Args:
            model: Compiled; it and its layers have `get_config`.
            x: As of `SWAG.fit`.
            y: As of `SWAG.fit`.
            epochs: Of each member, at least `num_snapshots`.
            batch_size: As of `SWAG.fit`.
            **fit_arguments: Others of Keras' `fit`.

        Returns:
            Stored draws, those of a member side by side.

        Raises:
            ValueError: As `SWAG.fit`.
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
        """Returns the constructor's arguments, plain JSON."""
        settings = self._member.get_config()
        del settings["num_draws"]
        own = {"num_members": self.num_members, "draws_per_member": self.draws_per_member}
        return own | settings


@contextlib.contextmanager
def _kept_rate(model: keras.Model, changed: float | None) -> Iterator[None]:
    """Puts the learning rate of an optimizer back in the end, if it can and will be changed."""
    if changed is None:
        yield
        return
    before = current_rate(model.optimizer)
    try:
        model.optimizer.learning_rate = before
    except TypeError:
        raise ValueError(
            "Expected an optimizer whose learning rate is a number for `learning_rate`. Received: "
            f"learning_rate={changed} and {model.optimizer.name!r} with a schedule. "
            "Hint: SGD(0.05, momentum=0.9), or a schedule that ends constant and "
            "learning_rate=None."
        ) from None
    try:
        yield
    finally:
        model.optimizer.learning_rate = before
