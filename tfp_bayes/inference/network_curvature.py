"""The curvature of a likelihood in the weights of all linear layers of a network, layer by layer.

The generalized Gauss-Newton matrix is H = sum_n J_n^T L_n J_n, where L_n = sum_c v_c v_c^T are the
second derivatives in the logits. With a the input of a layer and g_c = J_z^T v_c the gradient in
its output, its block is sum_n sum_c (sum_t a g_c^T)(sum_t a g_c^T)^T over positions t: a backward
pass for each c, and no sampling. The Kronecker factorization takes it for A x B,

    A = 1/N sum_n sum_t a a^T,    B = sum_n sum_c 1/T sum_t g_c g_c^T.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf

from tfp_bayes._plumbing.batches import unweighted_batches
from tfp_bayes.inference.network_layers import LinearLayer, find_linear_layers, recorded
from tfp_bayes.inference.observations import Observations
from tfp_bayes.prediction.finite import finite_rows
from tfp_bayes.prediction.inference_mode import run_isolated
from tfp_bayes.prediction.inputs import signature
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.linearized import before_link

_BATCH_SIZE = 256
_MAX_NUMBERS = 2**23  # of what is kept for all rows of a batch, 64 MB
_MAX_SIZE = 10_000  # of a Kronecker factor, whose eigenvectors take the cube of it


class Block(NamedTuple):
    """The curvature of one layer's weights W (F, U) along its eigenvectors.

    Args:
        eigenvalues: (F, U) float64.
        input_vectors: (F, F), None for the unit matrix.
        output_vectors: (U, U), None for the unit matrix.
        vectors: (F U, F U), all eigenvectors together, where they are no product of the two.
    """

    eigenvalues: np.ndarray
    input_vectors: np.ndarray | None = None
    output_vectors: np.ndarray | None = None
    vectors: np.ndarray | None = None


class Curvature(NamedTuple):
    """What one pass over the data finds.

    Args:
        layers: Whose weights have a curvature.
        blocks: One for each.
        left: The other trainable variables.
        log_likelihood: Sum over examples, in nats.
    """

    layers: list[LinearLayer]
    blocks: list[Block]
    left: list[keras.Variable]
    log_likelihood: float


def network_curvature(
    model: keras.Model, x: Any, y: Any, observations: Observations, is_diagonal: bool
) -> Curvature:
    """Goes over the data once.

    Args:
        model: Built, without stochastic layers, with one output (N, K).
        x: Arrays or a dataset of (x, y).
        y: Targets beside arrays.
        observations: What the outputs mean.
        is_diagonal: Whether to keep the diagonal of H instead of Kronecker factors.

    Raises:
        ValueError: If the outputs do not have the link of the likelihood, the data are not
            finite, or no layer is linear.
    """
    batches = _batches(x, y)
    first = next(batches, None)
    if first is None:
        raise ValueError("Expected examples in `x`. Received: none. Hint: arrays (N, ...), N > 0.")
    total = _Total(model, first[0], observations, is_diagonal)
    for inputs, targets in itertools.chain([first], batches):
        total.add(inputs, targets)
    return total.result()


class _Total:
    """Sums over all examples, of which it takes as many at a time as memory holds."""

    def __init__(self, model: keras.Model, inputs, observations: Observations, is_diagonal: bool):
        run = _runner(model)
        spec = signature(model, inputs)
        flat = zip(keras.tree.flatten(spec), keras.tree.flatten(inputs))
        known = [tf.TensorSpec([1, *array.shape[1:]], each.dtype) for each, array in flat]
        known = keras.tree.pack_sequence_as(spec, known)
        layers, self._left = find_linear_layers(model, run, known)
        _check_layers(model, layers, is_diagonal)
        self._layers, self._observations, self._is_diagonal = layers, observations, is_diagonal
        self._rows = _rows_at_a_time(layers, is_diagonal)
        self._step = tf.function(
            lambda each: _sums(run, layers, observations, is_diagonal, each),
            input_signature=[spec],
            autograph=False,
        )
        self._sums: list[np.ndarray] = []
        self._log_likelihood, self._count = 0.0, 0

    def add(self, inputs, targets) -> None:
        """Adds a batch."""
        targets = None if targets is None else np.asarray(targets)
        for start in range(0, len(keras.tree.flatten(inputs)[0]), self._rows):
            chunk = slice(start, start + self._rows)
            some = keras.tree.map_structure(lambda a, chunk=chunk: a[chunk], inputs)
            sums, eta, finite = self._step(some)
            _check_finite(finite.numpy(), self._count)
            self._log_likelihood += self._observations.log_likelihood(
                eta.numpy().astype("float64"), None if targets is None else targets[chunk]
            )
            self._count += len(eta)
            new = [each.numpy() for each in sums]
            self._sums = [a + b for a, b in zip(self._sums, new)] if self._sums else new

    def result(self) -> Curvature:
        """Returns the curvature of all examples together."""
        if self._is_diagonal:
            blocks = [Block(each) for each in self._sums]
        else:
            pairs = zip(self._sums[::2], self._sums[1::2])
            blocks = [_kronecker(gram, curvature, self._count) for gram, curvature in pairs]
        return Curvature(self._layers, blocks, self._left, self._log_likelihood)


def _runner(model: keras.Model) -> Callable:
    def run(inputs):
        inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        return run_isolated(model, lambda each: model(each, training=False), inputs)

    return run


def _batches(x: Any, y: Any) -> Iterator[tuple]:
    y = np.asarray(y) if isinstance(y, list | tuple) else y
    for inputs, targets in unweighted_batches(x, y, _BATCH_SIZE):
        if len(keras.tree.flatten(inputs)[0]):
            yield inputs, targets


def _rows_at_a_time(layers: list[LinearLayer], is_diagonal: bool) -> int:
    """Returns for how many rows inputs, and gradients of single rows, may be kept at once."""

    def numbers(layer: LinearLayer) -> int:
        is_product = is_diagonal and layer.num_positions > 1
        return max(layer.num_positions * max(layer.shape), is_product * int(np.prod(layer.shape)))

    return int(np.clip(_MAX_NUMBERS // max(map(numbers, layers)), 1, _BATCH_SIZE))


def _sums(
    run: Callable, layers: list[LinearLayer], observations: Observations, is_diagonal: bool, inputs
) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
    """Builds the graph of the sums over a batch, float64, its eta and whether rows are finite."""
    at_inputs, _, eta = _forward(run, layers, observations, inputs)
    a = [each.inputs(x) for each, x in zip(layers, at_inputs)]
    if is_diagonal:
        zeros = [tf.zeros(each.shape, tf.float64) for each in layers]
    else:
        zeros = [tf.zeros([each.shape[1]] * 2, tf.float64) for each in layers]

    def add_root(c, sums):
        # Gradients are taken in the graph of the loop, where the outputs must come from too.
        _, at_outputs, eta = _forward(run, layers, observations, inputs)
        root = tf.stop_gradient(observations.root(eta, c))
        gradients = tf.gradients(eta, at_outputs, grad_ys=root, unconnected_gradients="zero")
        g = [each.outputs(gradient) for each, gradient in zip(layers, gradients)]
        if is_diagonal:
            return c + 1, [s + _squares(*each) for s, *each in zip(sums, a, g)]
        return c + 1, [
            s + tf.einsum("ntu,ntv->uv", each, each) / layer.num_positions
            for s, each, layer in zip(sums, g, layers)
        ]

    _, sums = tf.while_loop(
        lambda c, _: c < observations.num_roots(eta), add_root, (tf.constant(0), zeros)
    )
    if not is_diagonal:
        grams = [tf.einsum("ntf,nth->fh", each, each) for each in a]
        sums = [each for pair in zip(grams, sums) for each in pair]
    location = get_likelihood(observations.likelihood).location(eta)  # NaN for no scale
    return sums, eta, finite_rows(inputs) & tf.reduce_all(tf.math.is_finite(location), axis=-1)


def _forward(run: Callable, layers: list[LinearLayer], observations: Observations, inputs):
    """Returns the inputs of the layers, their outputs, and eta."""
    with recorded([each.layer for each in layers]) as records:
        outputs = run(inputs)
    pairs = [records[each.layer][0] for each in layers]
    if len(keras.tree.flatten(outputs)) != 1 or len(outputs.shape) != 2:
        shapes = [tuple(each.shape) for each in keras.tree.flatten(outputs)]
        raise ValueError(
            f"Expected a `model` with one output of shape (N, K). Received: shapes {shapes}. "
            "Hint: Ensemble takes any model."
        )
    eta = before_link(outputs, observations.likelihood)
    get_likelihood(observations.likelihood).location(eta)  # refuses outputs without scales
    return [x for x, _ in pairs], [z for _, z in pairs], eta


def _squares(a: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """Returns the sum over rows of the squared derivatives in W, (F, U)."""
    if a.shape[1] == 1:  # the square of a product is the product of squares
        return tf.einsum("ntf,ntu->fu", tf.square(a), tf.square(g))
    return tf.reduce_sum(tf.square(tf.einsum("ntf,ntu->nfu", a, g)), axis=0)


def _kronecker(gram: np.ndarray, curvature: np.ndarray, count: int) -> Block:
    a, input_vectors = scipy.linalg.eigh(gram / count)
    b, output_vectors = scipy.linalg.eigh(curvature)
    eigenvalues = np.outer(np.maximum(a, 0), np.maximum(b, 0))
    return Block(eigenvalues, input_vectors, output_vectors)


def _check_layers(model: keras.Model, layers: list[LinearLayer], is_diagonal: bool) -> None:
    if not layers:
        raise ValueError(
            "Expected a `model` with trainable Dense, Conv1D or Conv2D layers, each used once. "
            f"Received: model={model.name!r} with none. Hint: Ensemble takes any model."
        )
    large = [each.layer.name for each in layers if max(each.shape) > _MAX_SIZE]
    if large and not is_diagonal:
        raise ValueError(
            f"Expected layers of up to {_MAX_SIZE} inputs and units for covariance='kronecker'. "
            f"Received: layers {large} with more. Hint: covariance='diagonal'."
        )


def _check_finite(finite: np.ndarray, start: int) -> None:
    bad = start + np.flatnonzero(~finite)
    if bad.size:
        raise ValueError(
            "Expected finite inputs and outputs for every row of `x`, with positive scales under "
            f"likelihood='normal'. Received: others in rows {bad[:5].tolist()}. Hint: leave them "
            "out, or mend the inputs; a regression ends in tfp_bayes.layers.NormalParameters."
        )
