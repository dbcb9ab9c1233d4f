"""Laplace's approximation of earlier data as the prior of the next.

With theta the trained weights and P the precision of the posterior of all earlier data, their log
density is -(w - theta)^T P (w - theta) / 2. It stands in for them when the next data are trained
on, and adds to the curvature of these afterwards.
"""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.fresh import assign_values, fresh_optimizer_values
from tfp_bayes.inference.batch_statistics import trained_normalizations
from tfp_bayes.inference.laplace_posterior import LaplacePosterior
from tfp_bayes.inference.network_curvature import Block, Curvature
from tfp_bayes.inference.weight_matrices import WeightMatrices

_MAX_SIZE = 2_000  # weights of a layer whose eigenvectors are found together


class EarlierData:
    """What earlier data say of the weights of a model, as their `LaplacePosterior` has it.

    Args:
        posterior: Of all earlier data. Weights that the model does not have, such as the heads of
            other tasks, do not count.
        model: The model that learns from the next data.
        is_diagonal: Whether these give a diagonal.

    Attributes:
        covered: Ids of the variables that the posterior is of.

    Raises:
        ValueError: If the posterior is not of weights of the model, not of this covariance, or
            too large to be added to.
    """

    def __init__(self, posterior: LaplacePosterior, model: keras.Model, is_diagonal: bool):
        if not isinstance(posterior, LaplacePosterior):
            raise ValueError(
                "Expected a LaplacePosterior of earlier data for `prior`. Received: "
                f"{type(posterior).__name__}. Hint: Laplace('diagonal').fit(...) gives one; with "
                "all but the last layer frozen it is that of the last layer."
            )
        self.posterior = posterior
        trained = {id(v) for v in model.trainable_variables}
        self._numbers = {
            id(matrix.variables[0]): i
            for i, matrix in enumerate(posterior._matrices)
            if id(matrix.variables[0]) in trained
        }
        chosen = [posterior._matrices[i] for i in self._numbers.values()]
        self.covered = {id(v) for matrix in chosen for v in matrix.variables}
        self._check(chosen, is_diagonal)

    def penalty(self) -> tf.Tensor:
        """Returns minus the log density of the weights as they are now, float32 in nats."""
        total = tf.constant(0.0)
        for i in self._numbers.values():
            total += tf.cast(self.posterior.quadratic_form(i), "float32") / 2
        return total

    @contextlib.contextmanager
    def as_prior_of(self, model: keras.Model) -> Iterator[None]:
        """Trains a `BayesianModel` under this prior inside, with an optimizer without memory."""
        self._check_trained(model)
        fresh = fresh_optimizer_values(model)
        assign_values(model.optimizer.variables, fresh)
        model.earlier_data = self
        model.train_function = None  # a graph that has another prior in it
        try:
            yield
        finally:
            model.earlier_data = None
            model.train_function = None

    def add(self, found: Curvature) -> Curvature:
        """Returns the curvature of all data, from that of the next ones alone.

        The log likelihood is then that of all data at the present weights, of earlier ones to
        second order, so that the evidence is the product of the evidence of all parts.

        Raises:
            ValueError: If a layer of the posterior is none of those whose curvature was found.
        """
        numbers = [self._numbers.get(id(layer.variables[0])) for layer in found.layers]
        absent = {*self._numbers.values()} - {*numbers}
        if absent:
            paths = [self.posterior._matrices[i].variables[0].path for i in sorted(absent)]
            raise ValueError(
                "Expected the layers of the earlier posterior to be called by `model` too. "
                f"Received: {paths} that are not. Hint: fit the model that the posterior is of."
            )
        blocks, log_likelihood = [], found.log_likelihood + self.posterior.log_likelihood
        precision = self.posterior.prior_scale**-2
        for layer, block, number in zip(found.layers, found.blocks, numbers):
            if number is not None:
                mean = self.posterior._means[number]
                block = _sum(block, self.posterior._blocks[number], layer.shape)
                growth = np.square(layer.read()).sum() - np.square(mean).sum()
                form = self._exact_form(layer, number)
                log_likelihood += float(precision * growth - form) / 2
            blocks.append(block)
        return found._replace(blocks=blocks, log_likelihood=log_likelihood)

    def _exact_form(self, matrix: WeightMatrices, number: int) -> float:
        """Returns (w - theta)^T P (w - theta) of one layer in float64."""
        block, mean = self.posterior._blocks[number], self.posterior._means[number]
        coordinates = _to_coordinates(block, matrix.read() - mean)
        return float(np.sum((block.eigenvalues + self.posterior.prior_scale**-2) * coordinates**2))

    def _check(self, chosen: Sequence[WeightMatrices], is_diagonal: bool) -> None:
        posterior = self.posterior
        if not chosen:
            raise ValueError(
                "Expected a `prior` over weights that `model` trains. Received: one over others, "
                f"{[v.path for v in posterior.variables[:5]]}. Hint: load_posterior(path, model) "
                "binds a saved one to a model."
            )
        blocks = [posterior._blocks[i] for i in self._numbers.values()]
        kinds = {_is_diagonal(block) for block in blocks}
        if kinds != {is_diagonal}:
            raise ValueError(
                "Expected a `prior` of the covariance that is fitted. Received: a "
                f"{'Kronecker factored' if is_diagonal else 'diagonal'} one. Hint: fit all parts "
                "of the data with the same covariance."
            )
        large = [m.variables[0].path for m in chosen if int(np.prod(m.shape[1:])) > _MAX_SIZE]
        if large and not is_diagonal:
            raise ValueError(
                "Expected covariance='diagonal' for layers of more than "
                f"{_MAX_SIZE:,} weights: the sum of two Kronecker products is none, and would have "
                f"to be kept as a whole. Received: {large[:5]}. Hint: Laplace('diagonal')."
            )
        if posterior.temperature != 1:
            raise ValueError(
                "Expected a `prior` of temperature 1, whose precision adds up as Bayes says. "
                f"Received: temperature={posterior.temperature}. Hint: set the temperature in the "
                "last fit only."
            )

    def _check_trained(self, model: keras.Model) -> None:
        if not hasattr(model, "prior_penalty"):
            raise ValueError(
                "Expected a BayesianModel to be trained under `prior`, which its loss takes in. "
                f"Received: {model.name!r} of type {type(model).__name__}. "
                "Hint: tfp_bayes.BayesianModel(inputs, outputs, prior_scale=...)."
            )
        trained = {id(v) for v in model.trainable_variables}
        problems = [v.path for v in self.posterior._left if id(v) in trained]
        problems += [f"{name}/moving statistics" for name in trained_normalizations(model)]
        if problems:
            raise ValueError(
                "Expected all that earlier data taught to be in their posterior: training would "
                f"change the rest without bounds. Received: {problems[:8]}. "
                "Hint: layer.trainable = False before the first fit, or after it."
            )


def _is_diagonal(block: Block) -> bool:
    return block.output_vectors is None and block.vectors is None


def _to_coordinates(block: Block, weights: np.ndarray) -> np.ndarray:
    """Returns weights (G, F, U) along the eigenvectors of a block."""
    if block.vectors is not None:
        flat = weights.reshape(len(weights), 1, -1) @ block.vectors
        return flat.reshape(weights.shape)
    if block.input_vectors is not None:
        weights = block.input_vectors.transpose(0, 2, 1) @ weights
    return weights if block.output_vectors is None else weights @ block.output_vectors


def _sum(a: Block, b: Block, shape: tuple[int, int, int]) -> Block:
    """Returns the curvature of two parts of the data, exactly."""
    if _is_diagonal(a) and _is_diagonal(b):
        return Block(a.eigenvalues + b.eigenvalues)
    values, vectors = np.linalg.eigh(_dense(a) + _dense(b))
    return Block(np.maximum(values, 0).reshape(shape), vectors=vectors)


def _dense(block: Block) -> np.ndarray:
    """Returns the matrices (G, F U, F U)."""
    num_groups, num_features, num_units = block.eigenvalues.shape
    vectors = block.vectors
    if vectors is None:
        a = np.eye(num_features)[None] if block.input_vectors is None else block.input_vectors
        b = np.eye(num_units)[None] if block.output_vectors is None else block.output_vectors
        vectors = np.einsum("gfh,guv->gfuhv", a, b)
        vectors = vectors.reshape(len(vectors), num_features * num_units, -1)
    values = block.eigenvalues.reshape(num_groups, 1, -1)
    return (vectors * values) @ vectors.transpose(0, 2, 1)
