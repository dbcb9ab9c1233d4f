"""Draws of a posterior that are made once and kept, with statistics that belong to them."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.inference.batch_statistics import BatchStatistics
from tfp_bayes.inference.stored_posterior import StoredPosterior


def materialize(
    posterior: Any,
    num_draws: int | None = None,
    seed: int = 0,
    refresh_batchnorm: Any = None,
    batch_size: int = 32,
) -> StoredPosterior:
    """Draws from a posterior once and keeps the draws, with statistics of batch normalization.

    Use it where the same functions shall be used again and again, and for networks with
    `BatchNormalization` whose moving statistics belong to other weights than those drawn: each
    draw then gets statistics of its own, from one pass over the data in training mode. The model
    and its own statistics stay as they are.

    Args:
        posterior: A posterior bound to a model, its attribute `model`: `SWAGPosterior`,
            `StoredPosterior` ...
        num_draws: S; None takes all draws of a finite posterior.
        seed: Integer. Draw s follows from (`seed`, s).
        refresh_batchnorm: Training inputs: arrays (N, ...), a structure of them, or a dataset.
            None leaves statistics as posterior and model have them.
        batch_size: Rows of a batch of arrays; take that of training.

    Returns:
        S draws of the variables of the posterior, and of the statistics.

    Raises:
        ValueError: If `num_draws` is missing or above the number of stored draws, a draw is not
            finite, another layer than `BatchNormalization` changes its state in training, or the
            posterior knows the noise of its targets.

    Reference:
        Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning",
        algorithm 1, arXiv:1902.02476.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)), keras.layers.Dense(4), keras.layers.BatchNormalization(),
    ...     keras.layers.Dense(3, "softmax")])
    >>> kernel = model.layers[0].kernel
    >>> posterior = StoredPosterior(model, [np.random.normal(size=(5, 2, 4))], [kernel])
    >>> x = np.random.normal(size=(64, 2))
    >>> [v.name for v in materialize(posterior, refresh_batchnorm=x).variables]
    ['kernel', 'moving_mean', 'moving_variance']
    """
    stored = posterior.num_draws
    num_draws = stored if num_draws is None else num_draws
    if num_draws is None:
        raise ValueError(
            "Expected `num_draws` for a posterior without stored draws. Received: "
            f"num_draws=None, {type(posterior).__name__}. Hint: num_draws=30 is usual."
        )
    check_integers(1, num_draws=num_draws)
    if getattr(posterior, "noise_scales", None) is not None:
        raise ValueError(
            "Expected a posterior of weights alone. Received: one that knows the noise of its "
            "targets too, which stored draws do not hold. Hint: end the model in "
            "tfp_bayes.layers.NormalParameters(heteroscedastic=False), which does."
        )
    if stored is not None and num_draws > stored:
        raise ValueError(
            f"Expected at most the {stored} draws that there are for `num_draws`. "
            f"Received: num_draws={num_draws}. Hint: leave it out to take them all."
        )
    statistics = None
    if refresh_batchnorm is not None:
        statistics = BatchStatistics(posterior.model, refresh_batchnorm, batch_size, seed)
    return keep_draws(
        posterior.model, posterior.variables, posterior.draw, num_draws, seed, statistics
    )


def keep_draws(
    model: keras.Model,
    variables: Sequence[keras.Variable],
    draw: Callable[[tf.Tensor, tf.Tensor], list[tf.Tensor]],
    num_draws: int,
    seed: int,
    statistics: BatchStatistics | None,
) -> StoredPosterior:
    """Returns stored draws, see `materialize`.

    Args:
        model: The model.
        variables: Those that are drawn.
        draw: As of `Posterior`.
        num_draws: S.
        seed: Integer.
        statistics: Estimates the statistics for the weights of a draw; None leaves them alone.
    """
    run = tf.function(draw, autograph=False)
    estimated = [] if statistics is None else statistics.variables
    replaced = {id(v) for v in estimated}
    kept = [i for i, v in enumerate(variables) if id(v) not in replaced]
    draws = []
    for s in range(num_draws):
        values = run(tf.constant(s), fold_in(as_seed(seed), s))
        found = [] if statistics is None else statistics(variables, values)
        draws.append([*(values[i].numpy() for i in kept), *found])
    chosen = [*(variables[i] for i in kept), *estimated]
    stacks = [np.stack(each) for each in zip(*draws)]
    check_finite_draws(stacks, chosen)
    return StoredPosterior(model, stacks, chosen)


def check_finite_draws(arrays: Sequence[np.ndarray], variables: Sequence[keras.Variable]) -> None:
    """Raises ValueError with the names of variables of which a value is not finite."""
    bad = [
        v.path
        for array, v in zip(arrays, variables)
        if keras.backend.is_float_dtype(v.dtype) and not np.isfinite(array.astype("float64")).all()
    ]
    if bad:
        raise ValueError(
            f"Expected finite weights. Received: NaN or infinity in {', '.join(bad)}. "
            "Hint: training diverged; lower the learning rate, or look for NaN in the data."
        )
