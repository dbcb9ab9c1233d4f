"""A Markov chain over weights. After a kill it resumes and gives bit-identical results."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_bayes._plumbing import checkpoint
from tfp_bayes._plumbing.seeds import as_seed, fold_in

TARGET_ACCEPTANCE = 0.8
MOST_LEAPFROGS = 1000  # in a trajectory, which matters while the step size is still being adapted
_DIVERGENCE = 1000.0  # nats; Stan calls a trajectory divergent if its energy error exceeds this
_NUM_PIECES = 20  # pieces that a chain is run in; it is saved after each


class ChainSettings(NamedTuple):
    """Settings of a chain.

    Args:
        kernel: "hmc" or "nuts".
        num_burnin: Number of first steps, which adapt the step size and are discarded.
        num_samples: Number of steps whose positions are samples.
        length: Mean length of a trajectory, for "hmc".
        step_size: Initial step size.
    """

    kernel: str
    num_burnin: int
    num_samples: int
    length: float
    step_size: float


class Trace(NamedTuple):
    """The history of a chain, including burn-in: arrays (T, ...)."""

    positions: np.ndarray
    acceptances: np.ndarray
    divergent: np.ndarray
    num_gradients: np.ndarray
    step_sizes: np.ndarray


class Sampler:
    """Hamiltonian Monte Carlo steps, in one graph that serves all chains.

    The random numbers of step t depend only on the seed of the chain and t, so results do not
    depend on the pieces in which a chain is run.

    Args:
        log_density: Function from a position (P,) in float64 to a float64 scalar.
        settings: Settings of the chains.
    """

    def __init__(self, log_density: Callable[[tf.Tensor], tf.Tensor], settings: ChainSettings):
        self.settings = settings
        step_size = tf.constant(settings.step_size, tf.float64)
        if settings.kernel == "nuts":
            inner = tfp.mcmc.NoUTurnSampler(log_density, step_size)
        else:
            inner = tfp.mcmc.HamiltonianMonteCarlo(log_density, step_size, num_leapfrog_steps=1)
        self._kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
            inner,
            num_adaptation_steps=int(0.8 * settings.num_burnin),
            target_accept_prob=tf.constant(TARGET_ACCEPTANCE, tf.float64),
        )
        self._bootstrap = tf.function(self._kernel.bootstrap_results, autograph=False)
        self._advance = tf.function(self._run, autograph=False, reduce_retracing=True)

    def run(self, start: np.ndarray, seed: int, path: Path | None, identity: dict) -> Trace:
        """Run one chain and return its trace.

        Args:
            start: Initial position (P,).
            seed: Seed of the chain.
            path: File for the checkpoint of the chain, or None.
            identity: Description of the run. A chain is resumed only if the description in its
                file is the same.
        """
        state, results = tf.constant(start), self._bootstrap(tf.constant(start))
        trace = Trace(
            positions=np.zeros((0, len(start))),
            acceptances=np.zeros(0),
            divergent=np.zeros(0, "bool"),
            num_gradients=np.zeros(0, "int64"),
            step_sizes=np.zeros(0),
        )
        if path is not None and path.exists():
            arrays, record = checkpoint.load(path)
            checkpoint.check_same_configuration(identity, record["identity"], path)
            trace = Trace(*(arrays[name] for name in Trace._fields))
            state = tf.constant(arrays["state"])
            flat = tf.nest.flatten(results)
            restored = [tf.constant(arrays[f"result_{i}"], e.dtype) for i, e in enumerate(flat)]
            results = tf.nest.pack_sequence_as(results, restored)
        num_steps = self.settings.num_burnin + self.settings.num_samples
        piece = math.ceil(num_steps / _NUM_PIECES)
        while len(trace.positions) < num_steps:
            first = len(trace.positions)
            count = min(piece, num_steps - first)
            state, results, new = self._advance(
                state, results, tf.constant(first), tf.constant(count), tf.constant(as_seed(seed))
            )
            pairs = zip(trace, (each.numpy() for each in new))
            trace = Trace(*(np.concatenate(pair) for pair in pairs))
            if path is not None:
                flat = {f"result_{i}": e.numpy() for i, e in enumerate(tf.nest.flatten(results))}
                arrays = {**trace._asdict(), **flat, "state": state.numpy()}
                checkpoint.save(path, checkpoint.State(arrays, {"identity": identity}))
        return trace

    def _run(self, state, results, first, count, seed):
        """Take `count` steps, beginning with step `first`."""
        kinds = [tf.float64, tf.float64, tf.bool, tf.int64, tf.float64]
        shapes = [state.shape, *[[]] * 4]
        arrays = [tf.TensorArray(k, count, element_shape=s) for k, s in zip(kinds, shapes)]

        def step(i, state, results, arrays):
            step_seed = fold_in(seed, first + i)
            results = self._with_length(results, fold_in(step_seed, 1))
            state, results = self._kernel.one_step(state, results, seed=step_seed)
            seen = (state, *self._describe(results))
            return i + 1, state, results, [a.write(i, e) for a, e in zip(arrays, seen)]

        _, state, results, arrays = tf.while_loop(
            lambda i, *_: i < count, step, (tf.constant(0), state, results, arrays)
        )
        return state, results, [each.stack() for each in arrays]

    def _with_length(self, results: Any, seed: tf.Tensor) -> Any:
        """Return kernel results in which the length of the next trajectory is set.

        Lengths vary uniformly by up to half of their mean. On a Gaussian target, trajectories of a
        fixed length could be whole periods, which end where they start.
        """
        if self.settings.kernel == "nuts":
            return results
        share = tf.random.stateless_uniform([], seed, 0.5, 1.5, tf.float64, alg="philox")
        number = tf.math.ceil(share * self.settings.length / results.new_step_size)
        number = tf.cast(tf.clip_by_value(number, 1.0, float(MOST_LEAPFROGS)), tf.int32)
        accepted = results.inner_results.accepted_results._replace(num_leapfrog_steps=number)
        return results._replace(
            inner_results=results.inner_results._replace(accepted_results=accepted)
        )

    def _describe(self, results: Any) -> tuple[tf.Tensor, ...]:
        """Return a step's acceptance probability, divergence, number of gradients and size."""
        inner = results.inner_results
        ratio = inner.log_accept_ratio
        acceptance = tf.exp(tf.minimum(ratio, 0.0))
        acceptance = tf.where(tf.math.is_finite(ratio), acceptance, tf.zeros_like(acceptance))
        if self.settings.kernel == "nuts":
            return (
                acceptance,
                inner.has_divergence,
                tf.cast(inner.leapfrogs_taken, tf.int64),
                inner.step_size,
            )
        divergent = tf.logical_not(ratio > -_DIVERGENCE)  # also true for NaN
        taken = tf.cast(inner.accepted_results.num_leapfrog_steps, tf.int64)
        return acceptance, divergent, taken, inner.accepted_results.step_size
