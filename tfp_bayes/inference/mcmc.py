"""Hamiltonian Monte Carlo over weights, a reference for other posteriors."""

import contextlib
import math
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_bayes._plumbing.checks import check_absent, check_integers
from tfp_bayes._plumbing.configured import Configured, check_positive
from tfp_bayes._plumbing.digest import digest, digest_network
from tfp_bayes._plumbing.fresh import fresh_optimizer, initialize
from tfp_bayes._plumbing.lock import Lock
from tfp_bayes.inference.chain import ChainSettings, Sampler, Trace
from tfp_bayes.inference.log_posterior import (
    LogPosterior,
    check_model,
    check_precision,
    check_statistics,
    read_all,
    sampled_variables,
)
from tfp_bayes.inference.member import member_seed
from tfp_bayes.inference.saved import saved_as
from tfp_bayes.inference.stored_posterior import StoredPosterior
from tfp_bayes.inference.training import check_compiled, train

# Largest product of weights and rows. 5,000 weights and 2,000 rows take minutes on two cores.
LARGEST = 10_000_000
_LARGEST_R_HAT = 1.1
_REFUSED = {"class_weight": "sample_weight=weights[y] multiplies log likelihoods, too"}
_JITTER = 0.01  # noise around the optima that chains start from, as a share of the prior's scale
_NUM_CHECKED = 1000  # predicted numbers for which the chains are compared


@saved_as
class ChainPosterior(StoredPosterior):
    """Draws from several Markov chains, one chain after another, with convergence diagnostics.

    It is the result of `HMC`. The arguments of its constructor are those of `StoredPosterior`.

    Attributes:
        diagnostics: A dict of plain numbers. "max_r_hat" and "min_ess" are computed from
            predictions for training inputs, because weights may differ by permutations that do not
            change predictions. "num_divergent" counts divergent trajectories after burn-in,
            "acceptance" and "step_size" list a number for each chain, "num_gradients" counts
            gradients in the whole run, and "temperature" is T. Empty if `HMC` did not draw them.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.diagnostics: dict[str, Any] = {}

    def assign(self, other: Any) -> bool:
        """See `SavedPosterior.assign`."""
        alike = isinstance(other, ChainPosterior) and super().assign(other)
        if alike:
            self.diagnostics = other.diagnostics
        return alike

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `SavedPosterior.get_state`."""
        arrays, settings = super().get_state()
        return arrays, {**settings, "diagnostics": self.diagnostics}

    @classmethod
    def from_state(cls, model, variables, arrays, settings) -> "ChainPosterior":
        """See `SavedPosterior.from_state`."""
        draws = [arrays[f"draws_{i}"] for i in range(len(variables))]
        posterior = cls(model, draws, variables, settings["combine"])
        posterior.diagnostics = settings["diagnostics"]
        return posterior


class HMC(Configured):
    """Hamiltonian Monte Carlo, which samples the posterior of a small network's weights.

    Use it to find out what the exact posterior predicts, as a reference for cheaper methods. It is
    slow, because each step computes many gradients over all rows. The posterior is defined by the
    model's loss and `prior_scale`, which applies to biases too. Check `diagnostics` of the result.

    Args:
        num_chains: Number of chains C. Each starts from a separate optimum.
        num_samples: Number of draws from each chain.
        num_burnin: Number of discarded first steps of each chain, which also adapt the step size.
        kernel: "hmc", whose trajectories have a mean length of pi / 2 prior scales, or "nuts",
            which adapts their length and takes more time for each draw.
        variables: "all" for all trainable weights, or "last_layer" for those of the last layer. In
            the latter case the other layers keep their trained weights and run only once.
        temperature: Temperature T, which divides the log posterior including the prior. 1 samples
            the Bayesian posterior.
        seed: Integer.
        directory: Folder for checkpoints of the chains. If `fit` is called again with the same
            model and data, it resumes, with bit-identical results on a CPU. None saves nothing.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Neal 2011, "MCMC Using Hamiltonian Dynamics", section 5.3.3, arXiv:1206.1901; Izmailov et
        al. 2021, "What Are Bayesian Neural Network Posteriors Really Like?", section 3.1,
        arXiv:2104.14421; Hoffman and Gelman 2014, algorithm 6, arXiv:1111.4246.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    >>> y = (x[:, 0] > 0).astype("int64")
    >>> inputs = keras.Input((2,))
    >>> model = BayesianModel(
    ...     inputs, keras.layers.Dense(2, "softmax")(inputs), prior_scale=1.0,
    ...     num_samples=1)
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> hmc = HMC(num_chains=2, num_samples=50, num_burnin=50)
    >>> posterior = hmc.fit(model, x, y, epochs=1, verbose=0)
    >>> posterior.num_draws, posterior.diagnostics["max_r_hat"] < 1.1
    (100, True)
    >>> Predictor(model, posterior=posterior).predict_uncertainty(x).mean.shape
    (40, 2)
    """

    def __init__(
        self,
        num_chains: int = 4,
        num_samples: int = 250,
        num_burnin: int = 250,
        *,
        kernel: str = "hmc",
        variables: str = "all",
        temperature: float = 1.0,
        seed: int = 0,
        directory: str | Path | None = None,
    ):
        check_integers(1, num_chains=num_chains)
        check_integers(4, num_samples=num_samples)  # because R-hat compares halves of chains
        check_integers(10, num_burnin=num_burnin)
        check_integers(0, seed=seed)
        _check_choice("kernel", kernel, ("hmc", "nuts"))
        _check_choice("variables", variables, ("all", "last_layer"))
        check_positive(temperature=temperature)
        self.num_chains = num_chains
        self.num_samples = num_samples
        self.num_burnin = num_burnin
        self.kernel = kernel
        self.variables = variables
        self.temperature = float(temperature)
        self.seed = seed
        self.directory = None if directory is None else str(directory)

    def fit(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        epochs: int | None = None,
        batch_size: int = 32,
        sample_weight: Any = None,
        **fit_arguments: Any,
    ) -> ChainPosterior:
        """Sample the posterior.

        Afterwards, the model has the same weights as before, or with variables="last_layer" and
        `epochs`, the weights after training.

        Args:
            model: A compiled `BayesianModel` with a `prior_scale` and without stochastic layers, in
                single or double precision. The states of chains always have double precision.
            x: Arrays (N, ...), a structure of them, or a dataset of pairs (x, y).
            y: Targets, if `x` holds arrays.
            epochs: Number of epochs for training the starting point of each chain, from new
                weights. With variables="last_layer", the model is trained once, from its current
                weights; None does not train it.
            batch_size: Rows in a training batch, if `x` holds arrays.
            sample_weight: Sample weights as for Keras' `fit`. They multiply log likelihoods.
            **fit_arguments: Further arguments of Keras' `fit`, for training. `class_weight` is
                refused, because it would not apply to the log posterior.

        Returns:
            The draws, bound to `model`.

        Raises:
            ValueError: If the model has no prior, has stochastic layers or batch statistics, or
                computes in half precision, there are too many weights and rows, or the directory
                belongs to a different run.
        """
        check_compiled(model)
        check_model(model)
        check_absent("HMC", fit_arguments, _REFUSED)
        self._check_epochs(epochs)
        if self.variables == "all":
            check_statistics(model)
        variables = sampled_variables(model, self.variables)
        check_precision(model, variables)
        size = sum(math.prod(v.shape) for v in variables)
        data = read_all(x, y, sample_weight, size, LARGEST)
        arguments = {"epochs": epochs, "batch_size": batch_size, **fit_arguments}
        before = model.get_weights()
        with contextlib.ExitStack() as stack:
            folder = self._open(stack)
            identity = self._identity(model, variables, data, arguments)
            try:
                traces = self._run(model, variables, data, arguments, folder, identity)
            except BaseException:
                model.set_weights(before)
                raise
        if self.variables == "all":
            model.set_weights(before)
        return self._posterior(self._target(model, variables, data), model, traces)

    def _run(
        self, model, variables, data, arguments: dict, folder: Path | None, identity: dict
    ) -> list[Trace]:
        """Run all chains and return their traces."""
        trained = self.variables == "last_layer"
        if trained and arguments["epochs"] is not None:
            path = folder and folder / "start.npz"
            _train(model, data, self.seed, path, identity, arguments)
        target = self._target(model, variables, data)
        scale = model.prior_scale * math.sqrt(self.temperature)  # scale of the tempered prior
        sampler = Sampler(target, self._settings(scale, target.size))
        traces = []
        for chain in range(self.num_chains):
            seed = member_seed(self.seed, chain)
            if not trained:
                initialize(model, seed, own_seeds=False)
                path = folder and folder / f"start-{chain + 1}.npz"
                _train(model, data, seed, path, identity, arguments)
            jitter = np.random.default_rng(seed).normal(size=target.size)
            start = target.position() + _JITTER * scale * jitter
            _check_start(target(tf.constant(start)))
            path = folder and folder / f"chain-{chain + 1}.npz"
            traces.append(sampler.run(start, seed, path, identity))
        return traces

    def _target(self, model, variables, data) -> LogPosterior:
        return LogPosterior(model, variables, data, self.temperature)

    def _settings(self, prior_scale: float, size: int) -> ChainSettings:
        length = prior_scale * math.pi / 2
        step_size = 0.1 * prior_scale / size**0.25
        return ChainSettings(self.kernel, self.num_burnin, self.num_samples, length, step_size)

    def _posterior(
        self, target: LogPosterior, model: keras.Model, traces: list[Trace]
    ) -> ChainPosterior:
        kept = [Trace(*(each[self.num_burnin :] for each in trace)) for trace in traces]
        positions = np.stack([trace.positions for trace in kept])  # (C, S, P)
        draws = target.split(tf.constant(positions.reshape(-1, target.size)))
        posterior = ChainPosterior(model, [each.numpy() for each in draws], target.variables)
        posterior.diagnostics = {
            **compare_chains(_predictions(target, positions)),
            "num_divergent": int(sum(trace.divergent.sum() for trace in kept)),
            "acceptance": [float(trace.acceptances.mean()) for trace in kept],
            "step_size": [float(trace.step_sizes[-1]) for trace in kept],
            "num_gradients": int(sum(trace.num_gradients.sum() for trace in traces)),
            "temperature": self.temperature,
        }
        _warn(posterior.diagnostics)
        return posterior

    def _check_epochs(self, epochs: int | None) -> None:
        if epochs is not None or self.variables == "all":
            check_integers(1, epochs=epochs)

    def _open(self, stack: contextlib.ExitStack) -> Path | None:
        if self.directory is None:
            return None
        folder = Path(self.directory)
        lock = Lock(folder / "chains.lock", folder)
        lock.acquire()
        stack.callback(lock.release)
        return folder

    def _identity(self, model, variables, data, arguments: dict) -> dict[str, Any]:
        """Return a description that a resumed run must share with the interrupted one."""
        sampled = set() if self.variables == "last_layer" else {id(v) for v in variables}
        others = [v.numpy() for v in model.weights if id(v) not in sampled]
        settings = self.get_config()
        del settings["directory"], settings["num_chains"]  # more chains can be added later
        return {
            "network": digest_network(model),
            "likelihood": digest([model.likelihood, model.prior_scale]),
            "other weights": digest(others),
            "data": digest(list(data)),
            "fit arguments": digest({k: v for k, v in arguments.items() if k != "verbose"}),
            **settings,
        }


def compare_chains(values: np.ndarray) -> dict[str, float]:
    """Compute R-hat and the effective sample size of several chains.

    Args:
        values: M quantities computed from each of S draws of C chains, (C, S, M).

    Returns:
        "max_r_hat", which compares halves of chains, and "min_ess", the effective number of draws
        of all chains together. Both are the worst value among the quantities that vary.
    """
    values = values[..., np.ptp(values, axis=(0, 1)) > 1e-12]
    if not values.shape[-1]:
        return {"max_r_hat": 1.0, "min_ess": float(values.shape[0] * values.shape[1])}
    states = tf.constant(values.transpose(1, 0, 2))  # (S, C, M)
    if values.shape[1] % 2:
        states = states[1:]
    r_hat = tfp.mcmc.potential_scale_reduction(states, split_chains=True)
    ess = tfp.mcmc.effective_sample_size(
        states, filter_beyond_positive_pairs=True, cross_chain_dims=1 if len(values) > 1 else None
    )
    ess = ess if len(values) > 1 else tf.reduce_sum(ess, axis=0)
    return {"max_r_hat": float(np.max(r_hat)), "min_ess": float(np.min(ess))}


def _predictions(target: LogPosterior, positions: np.ndarray) -> np.ndarray:
    """Return up to M = `_NUM_CHECKED` predictions of each draw for training inputs, (C, S, M)."""
    num_outputs = len(target.predict(tf.constant(positions[0, 0])))
    chosen = np.unique(np.linspace(0, num_outputs - 1, _NUM_CHECKED).astype("int64"))

    @tf.function(autograph=False)
    def predict(states: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda each: tf.gather(target.predict(each), chosen), states)

    return np.stack([predict(tf.constant(chain)).numpy() for chain in positions])


def _train(model, data, seed: int, path: Path | None, identity: dict, arguments: dict) -> None:
    """Train the model in place, with a fresh optimizer state that is discarded afterwards."""
    x, y, sample_weight = data
    with fresh_optimizer(model):
        train(
            model,
            x,
            y,
            sample_weight=sample_weight,
            seed=seed,
            path=path,
            settings=identity,
            **arguments,
        )


def _check_start(log_density: tf.Tensor) -> None:
    if not np.isfinite(log_density):
        raise ValueError(
            "Expected a finite log posterior where a chain starts. Received: "
            f"{float(log_density)}. Hint: look for NaN in `x` and `y`, or train with a smaller "
            "learning rate."
        )


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(
            f"Expected one of {known} for `{name}`. Received: {name}={value!r}. "
            f"Hint: {known[0]!r} is the default."
        )


def _warn(diagnostics: dict[str, Any]) -> None:
    r_hat, divergent = diagnostics["max_r_hat"], diagnostics["num_divergent"]
    if not r_hat <= _LARGEST_R_HAT:
        warnings.warn(
            f"The predictions of the chains disagree: R-hat is {r_hat:.3f}, above "
            f"{_LARGEST_R_HAT}. Increase num_burnin and num_samples before you trust the draws.",
            stacklevel=4,
        )
    if divergent:
        warnings.warn(
            f"{divergent} trajectories diverged, because the posterior is too curved for the step "
            "size in some regions. The draws avoid these regions. Increase num_burnin, or use a "
            "smaller prior_scale.",
            stacklevel=4,
        )
