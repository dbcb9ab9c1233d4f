"""Stored draws from a posterior, with batch-normalization statistics that match each draw."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.inference.batch_statistics import BatchStatistics
from tfp_bayes.inference.stored_posterior import StoredPosterior
from tfp_bayes.layers import stochastic_layers


def materialize(
    posterior: Any,
    num_draws: int | None = None,
    seed: int = 0,
    refresh_batchnorm: Any = None,
    batch_size: int = 32,
) -> StoredPosterior:
    """Draw from a posterior once and store the draws.

    Use it to predict with the same set of functions many times. Use it also for networks with
    `BatchNormalization`, whose moving statistics do not match the drawn weights: with
    `refresh_batchnorm`, each draw gets its own statistics, from one pass over the data in training
    mode. The model and its statistics do not change.

    Args:
        posterior: A posterior with an attribute `model`, such as `SWAGPosterior` or
            `StoredPosterior`.
        num_draws: Number of draws S. None takes all draws of a finite posterior.
        seed: Integer. Draw s is the one that a `Predictor` of this posterior uses for sample s with
            this seed.
        refresh_batchnorm: Training inputs: arrays (N, ...), a structure of them, or a dataset.
            None keeps the statistics of the posterior or the model.
        batch_size: Rows in a batch, if `refresh_batchnorm` holds arrays. Use the batch size of
            training.

    Returns:
        S draws of the posterior's variables, and of the statistics if they are refreshed. A
        `Predictor` linearizes the model and adds noise of the targets as for the given posterior.

    Raises:
        ValueError: If `num_draws` is missing or larger than the number of stored draws, a draw is
            not finite, a layer other than `BatchNormalization` changes its state in training, or
            statistics are to be refreshed for a model that is linearized.

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
            f"num_draws=None, {type(posterior).__name__}. Hint: num_draws=30 is a common choice."
        )
    check_integers(1, num_draws=num_draws)
    if stored is not None and num_draws > stored:
        raise ValueError(
            f"Expected `num_draws` to be at most {stored}, the number of stored draws. "
            f"Received: num_draws={num_draws}. Hint: leave it out to take all of them."
        )
    statistics = None
    if refresh_batchnorm is not None:
        if getattr(posterior, "linearize", False):
            raise ValueError(
                "Expected `refresh_batchnorm=None` for a posterior whose model is linearized at "
                "the center, for which the model's own statistics are right. Received: a "
                f"{type(posterior).__name__}. Hint: leave refresh_batchnorm out."
            )
        statistics = BatchStatistics(posterior.model, refresh_batchnorm, batch_size, seed)
    return keep_draws(posterior, num_draws, seed, statistics)


def keep_draws(
    posterior: Any, num_draws: int, seed: int, statistics: BatchStatistics | None
) -> StoredPosterior:
    """Draw from a posterior and store the draws, see `materialize`.

    Args:
        posterior: As for `materialize`.
        num_draws: Number of draws S.
        seed: Integer.
        statistics: Estimator of the batch-normalization statistics for the weights of a draw. None
            leaves the statistics unchanged.
    """
    variables = posterior.variables
    start = as_seed(seed)
    num_layers = len(stochastic_layers(posterior.model))  # a predictor seeds these first

    @tf.function(autograph=False)
    def run(index):
        return posterior.draw(index, fold_in(start, index, num_layers))

    estimated = [] if statistics is None else statistics.variables
    replaced = {id(v) for v in estimated}
    kept = [i for i, v in enumerate(variables) if id(v) not in replaced]
    draws = []
    for s in range(num_draws):
        values = run(tf.constant(s))
        found = [] if statistics is None else statistics(variables, values)
        draws.append([*(values[i].numpy() for i in kept), *found])
    chosen = [*(variables[i] for i in kept), *estimated]
    stacks = [np.stack(each) for each in zip(*draws)]
    check_finite_draws(stacks, chosen)
    return StoredPosterior(
        posterior.model,
        stacks,
        chosen,
        getattr(posterior, "combine", "mean"),
        posterior.center() if getattr(posterior, "linearize", False) else None,
        getattr(posterior, "noise_scales", None),
    )


def check_finite_draws(arrays: Sequence[np.ndarray], variables: Sequence[keras.Variable]) -> None:
    """Raise ValueError with the names of the variables that have a non-finite value.

    A scalar that is not trainable may be NaN: the weight of the prior is, in a model without one.
    """
    bad = [
        v.path
        for array, v in zip(arrays, variables)
        if keras.backend.is_float_dtype(v.dtype)
        and (v.trainable or len(v.shape))
        and not np.isfinite(array.astype("float64")).all()
    ]
    if bad:
        raise ValueError(
            f"Expected finite weights. Received: NaN or infinity in {', '.join(bad)}. "
            "Hint: training diverged; lower the learning rate, or look for NaN in the data."
        )
