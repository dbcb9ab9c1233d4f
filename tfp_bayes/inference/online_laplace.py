"""Online Laplace: the Laplace approximation for earlier data serves as the prior for new data.

Let theta be the center and P the precision of the posterior given all earlier data. Its log
density, -(w - theta)^T P (w - theta) / 2 up to a constant, replaces the earlier data in training
on the new data. After training, P is added to the curvature of the new data.
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

_MAX_SIZE = 2_000  # weights in a layer, for which the eigenvectors of a full matrix are computed


class EarlierData:
    """The information of earlier data about a model's weights, in the form of a posterior.

    Args:
        posterior: The posterior given all earlier data. Weights that the model does not have, such
            as the heads of other tasks, are ignored.
        model: The model to train on the new data.
        is_diagonal: Whether the covariance for the new data is diagonal.

    Attributes:
        covered: Ids of the variables that the posterior covers.

    Raises:
        ValueError: If the posterior is not over weights of the model, has another kind of
            covariance, or has layers that are too large to add a curvature to.
    """

    def __init__(self, posterior: LaplacePosterior, model: keras.Model, is_diagonal: bool):
        if not isinstance(posterior, LaplacePosterior):
            raise ValueError(
                "Expected a LaplacePosterior of earlier data for `prior`. Received: "
                f"{type(posterior).__name__}. Hint: Laplace('diagonal').fit(...) returns one; to "
                "restrict it to the last layer, freeze the other layers."
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
        """Return minus the log density of the current weights in nats, float32."""
        total = tf.constant(0.0)
        for i in self._numbers.values():
            total += tf.cast(self.posterior.quadratic_form(i), "float32") / 2
        return total

    @contextlib.contextmanager
    def as_prior_of(self, model: keras.Model) -> Iterator[None]:
        """Make this the prior of a `BayesianModel` inside the context; reset its optimizer."""
        self._check_trained(model)
        fresh = fresh_optimizer_values(model)
        assign_values(model.optimizer.variables, fresh)
        model.earlier_data = self
        model.train_function = None  # an earlier graph would contain another prior
        try:
            yield
        finally:
            model.earlier_data = None
            model.train_function = None

    def add(self, found: Curvature) -> Curvature:
        """Return the curvature of all data, given the curvature of the new data.

        The result also has the log likelihood of all data at the current weights, to second order
        for the earlier data. The evidence is then the product of the evidence of all parts.

        Raises:
            ValueError: If the curvature of a layer of the posterior was not found.
        """
        numbers = [self._numbers.get(id(layer.variables[0])) for layer in found.layers]
        absent = {*self._numbers.values()} - {*numbers}
        if absent:
            paths = [self.posterior._matrices[i].variables[0].path for i in sorted(absent)]
            raise ValueError(
                "Expected `model` to call all layers that the earlier posterior covers. Received: "
                f"{paths}, which it does not call. Hint: fit the model of the earlier posterior."
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
        """Return (w - theta)^T P (w - theta) for one layer in float64."""
        block, mean = self.posterior._blocks[number], self.posterior._means[number]
        coordinates = _to_coordinates(block, matrix.read() - mean)
        return float(np.sum((block.eigenvalues + self.posterior.prior_scale**-2) * coordinates**2))

    def _check(self, chosen: Sequence[WeightMatrices], is_diagonal: bool) -> None:
        posterior = self.posterior
        if not chosen:
            raise ValueError(
                "Expected a `prior` over trainable weights of `model`. Received: a posterior over "
                f"other weights, {[v.path for v in posterior.variables[:5]]}. "
                "Hint: load_posterior(path, model) binds a saved posterior to a model."
            )
        blocks = [posterior._blocks[i] for i in self._numbers.values()]
        kinds = {_is_diagonal(block) for block in blocks}
        if kinds != {is_diagonal}:
            raise ValueError(
                "Expected a `prior` with the same kind of covariance. Received: a "
                f"{'Kronecker-factored' if is_diagonal else 'diagonal'} one. "
                "Hint: fit all parts of the data with the same covariance."
            )
        large = [m.variables[0].path for m in chosen if int(np.prod(m.shape[1:])) > _MAX_SIZE]
        if large and not is_diagonal:
            raise ValueError(
                "Expected covariance='diagonal' for layers with more than "
                f"{_MAX_SIZE:,} weights, because the sum of two Kronecker products is a full "
                f"matrix. Received: layers {large[:5]}. Hint: use Laplace('diagonal')."
            )
        if posterior.temperature != 1:
            raise ValueError(
                "Expected a `prior` with temperature=1, since precisions add up only for exact "
                f"Bayesian updates. Received: temperature={posterior.temperature}. "
                "Hint: set the temperature in the last fit only."
            )

    def _check_trained(self, model: keras.Model) -> None:
        if not hasattr(model, "prior_penalty"):
            raise ValueError(
                "Expected a BayesianModel for training with `prior`, which is part of its loss. "
                f"Received: {model.name!r} of type {type(model).__name__}. "
                "Hint: use tfp_bayes.BayesianModel(inputs, outputs, prior_scale=...)."
            )
        trained = {id(v) for v in model.trainable_variables}
        problems = [v.path for v in self.posterior._left if id(v) in trained]
        problems += [f"{layer.name}/moving statistics" for layer in trained_normalizations(model)]
        if problems:
            raise ValueError(
                "Expected the posterior of earlier data to cover all weights that training "
                "changes, because nothing would limit the change of the others. Received: "
                f"{problems[:8]}, which it does not cover. "
                "Hint: set layer.trainable = False before the first fit, or after it."
            )


def _is_diagonal(block: Block) -> bool:
    return block.output_vectors is None and block.vectors is None


def _to_coordinates(block: Block, weights: np.ndarray) -> np.ndarray:
    """Convert weights (G, F, U) to coordinates along the eigenvectors of a block."""
    if block.vectors is not None:
        flat = weights.reshape(len(weights), 1, -1) @ block.vectors
        return flat.reshape(weights.shape)
    if block.input_vectors is not None:
        weights = block.input_vectors.transpose(0, 2, 1) @ weights
    return weights if block.output_vectors is None else weights @ block.output_vectors


def _sum(a: Block, b: Block, shape: tuple[int, int, int]) -> Block:
    """Return the exact sum of the curvatures of two parts of the data."""
    if _is_diagonal(a) and _is_diagonal(b):
        return Block(a.eigenvalues + b.eigenvalues)
    values, vectors = np.linalg.eigh(_dense(a) + _dense(b))
    return Block(np.maximum(values, 0).reshape(shape), vectors=vectors)


def _dense(block: Block) -> np.ndarray:
    """Return the block as full matrices (G, F U, F U)."""
    num_groups, num_features, num_units = block.eigenvalues.shape
    vectors = block.vectors
    if vectors is None:
        a = np.eye(num_features)[None] if block.input_vectors is None else block.input_vectors
        b = np.eye(num_units)[None] if block.output_vectors is None else block.output_vectors
        vectors = np.einsum("gfh,guv->gfuhv", a, b)
        vectors = vectors.reshape(len(vectors), num_features * num_units, -1)
    values = block.eigenvalues.reshape(num_groups, 1, -1)
    return (vectors * values) @ vectors.transpose(0, 2, 1)
