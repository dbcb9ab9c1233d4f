"""The curvature of a likelihood in the weights of all linear layers of a network, layer by layer.

The generalized Gauss-Newton matrix is H = sum_n sum_p J_np^T L_np J_np, a sum over examples n and
output positions p, where L = sum_c v_c v_c^T is the matrix of second derivatives in the logits. Let
a be the input of a layer and g_v = J_z^T v the gradient in its output z. The layer's block of H is
sum_n sum_v (sum_t a g_v^T)(sum_t a g_v^T)^T, where t runs over the positions inside the layer; it
takes one backward pass for each v. The Kronecker factorization approximates it by A x B, with

    A = 1/N sum_n sum_t a a^T,    B = sum_n sum_v 1/T sum_t g_v g_v^T.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes.inference.labelled_run import (
    BATCH_SIZE,
    flat_targets,
    labelled,
    run_model,
    seen_positions,
)
from tfp_bayes.inference.linear_layers import LinearLayer
from tfp_bayes.inference.network_layers import Found, find_linear_layers, recorded
from tfp_bayes.inference.observations import Observations, num_roots, root
from tfp_bayes.prediction.finite import finite_rows
from tfp_bayes.prediction.inputs import signature
from tfp_bayes.prediction.linearized import before_link

_MAX_NUMBERS = 2**23  # numbers held in memory for the rows of a batch, 64 MB
_MAX_SIZE = 10_000  # size of a Kronecker factor; the time for its eigenvectors is cubic in it


class Block(NamedTuple):
    """The eigendecomposition of the curvature of a layer's weights W (G, F, U).

    Args:
        eigenvalues: Eigenvalues (G, F, U), float64.
        input_vectors: Eigenvectors of the input factor (G, F, F). None means the identity.
        output_vectors: Eigenvectors of the output factor (G, U, U). None means the identity.
        vectors: Eigenvectors (G, F U, F U) of a matrix without Kronecker structure, otherwise None.
    """

    eigenvalues: np.ndarray
    input_vectors: np.ndarray | None = None
    output_vectors: np.ndarray | None = None
    vectors: np.ndarray | None = None


class Curvature(NamedTuple):
    """The result of one pass over the data.

    Args:
        layers: The layers for whose weights the curvature was computed.
        blocks: The curvature of each of these layers.
        left: All other trainable variables.
        log_likelihood: Log likelihood, the sum over examples in nats.
    """

    layers: list[LinearLayer]
    blocks: list[Block]
    left: list[keras.Variable]
    log_likelihood: float


def network_curvature(
    model: keras.Model, x: Any, y: Any, observations: Sequence[Observations], is_diagonal: bool
) -> Curvature:
    """Compute the curvature in one pass over the data.

    Args:
        model: Built Keras model without stochastic layers.
        x: Arrays or a dataset of (x, y).
        y: Targets, if `x` holds arrays.
        observations: The meaning of each of the outputs (N, ..., K).
        is_diagonal: Whether to compute the diagonal of H instead of Kronecker factors.

    Raises:
        ValueError: If an output does not end in the link of its likelihood, the data are not
            finite, or no layer is linear.
    """
    batches = labelled(x, y)
    first = next(batches)
    total = _Total(model, first[0], observations, is_diagonal)
    for inputs, targets in itertools.chain([first], batches):
        total.add(inputs, targets)
    return total.result()


class _Total:
    """Sums over all examples, computed for as many rows at a time as the memory limit allows."""

    def __init__(self, model: keras.Model, inputs, observations, is_diagonal: bool):
        spec = signature(model, inputs)
        flat = zip(keras.tree.flatten(spec), keras.tree.flatten(inputs))
        known = [tf.TensorSpec([1, *array.shape[1:]], each.dtype) for each, array in flat]
        known = keras.tree.pack_sequence_as(spec, known)
        found = find_linear_layers(model, lambda each: run_model(model, each), known)
        _check_layers(model, found.layers, is_diagonal)
        self._model, self._found, self._is_diagonal = model, found, is_diagonal
        self._observations = list(observations)
        self._rows = _rows_at_a_time(found, is_diagonal)
        self._outputs = None  # structure of the outputs, known after tracing
        self._step = tf.function(
            self._sums_of, input_signature=[spec, tf.TensorSpec([], tf.int32)], autograph=False
        )
        self._sums: list[np.ndarray] = []
        self._log_likelihood, self._count = 0.0, 0

    def add(self, inputs, targets) -> None:
        """Add a batch."""
        for start in range(0, len(keras.tree.flatten(inputs)[0]), self._rows):
            chunk = slice(start, start + self._rows)
            some = keras.tree.map_structure(lambda a, chunk=chunk: a[chunk], inputs)
            sums, etas, seen, finite = self._step(some, self._count)
            _check_finite(finite.numpy(), self._count)
            given = flat_targets(self._model, self._outputs, targets)
            for each, eta, mask, y in zip(self._observations, etas, seen, given):
                self._log_likelihood += each.log_likelihood(
                    eta.numpy().astype("float64"),
                    None if y is None else np.asarray(y)[chunk],
                    None if mask is None else mask.numpy(),
                )
            self._count += len(finite)
            new = [each.numpy() for each in sums]
            self._sums = [a + b for a, b in zip(self._sums, new)] if self._sums else new

    def result(self) -> Curvature:
        """Return the curvature of all examples together."""
        if self._is_diagonal:
            blocks = [Block(each) for each in self._sums]
        else:
            pairs = zip(self._sums[::2], self._sums[1::2])
            blocks = [_kronecker(gram, curvature, self._count) for gram, curvature in pairs]
        return Curvature(self._found.layers, blocks, self._found.left, self._log_likelihood)

    def _sums_of(self, inputs, start: tf.Tensor):
        """Build the graph that processes one batch.

        Returns:
            The sums over the batch in float64, eta and the mask of positions that count for each
            output, and whether each row is finite.
        """
        layers = self._found.layers
        at_inputs, _, etas, seen = self._forward(inputs)
        a = [_joined(each.inputs, calls) for each, calls in zip(layers, at_inputs)]
        shapes = [each.shape for each in layers]
        if not self._is_diagonal:
            shapes = [(num_groups, num_units, num_units) for num_groups, _, num_units in shapes]
        sums = [tf.zeros(shape, tf.float64) for shape in shapes]
        for i in range(len(etas)):
            sums = self._add_roots(sums, i, a, inputs, start)
        if not self._is_diagonal:
            grams = [layer.gram(each) for layer, each in zip(layers, a)]
            sums = [each for pair in zip(grams, sums) for each in pair]
        finite = finite_rows(inputs)
        for each, eta in zip(self._observations, etas):
            finite &= finite_rows(each.location(eta))  # NaN where a scale is invalid
        return sums, etas, seen, finite

    def _add_roots(self, sums, i: int, a: list[tf.Tensor], inputs, start: tf.Tensor):
        """Add the contribution of output i to the sums, one vector v after another."""
        layers = self._found.layers

        def add_root(index, sums):
            # Gradients are built in the graph of the loop, so the outputs must be computed there.
            _, at_outputs, etas, seen = self._forward(inputs)
            v = tf.stop_gradient(root(self._observations[i], etas[i], seen[i], index, start))
            flat = [z for calls in at_outputs for z in calls]
            gradients = iter(tf.gradients(etas[i], flat, grad_ys=v, unconnected_gradients="zero"))
            calls = [[next(gradients) for _ in each] for each in at_outputs]
            g = [_joined(layer.outputs, each) for layer, each in zip(layers, calls)]
            if self._is_diagonal:
                new = [layer.squares(*each) for layer, *each in zip(layers, a, g)]
            else:
                new = [layer.curvature(each) for layer, each in zip(layers, g)]
            return index + 1, [s + n for s, n in zip(sums, new)]

        end = num_roots(self._forward(inputs)[2][i])
        return tf.while_loop(lambda c, _: c < end, add_root, (tf.constant(0), sums))[1]

    def _forward(self, inputs):
        """Return the layers' inputs and outputs in each call, etas, and masks of positions."""
        layers = [each.layer for each in self._found.layers]
        with recorded(list(dict.fromkeys(layers))) as records:
            outputs = run_model(self._model, inputs)
        self._outputs = keras.tree.map_structure(lambda _: 0, outputs)
        flat = keras.tree.flatten(outputs)
        _check_outputs(flat, self._observations)
        etas = [before_link(p, each.likelihood) for p, each in zip(flat, self._observations)]
        for each, eta in zip(self._observations, etas):
            each.location(eta)  # raises an error if scales are missing
        seen = [seen_positions(p) for p in flat]
        at_inputs = [[x for x, _ in records[layer]] for layer in layers]
        at_outputs = [[z for _, z in records[layer]] for layer in layers]
        return at_inputs, at_outputs, etas, seen


def _joined(positions, calls: list[tf.Tensor]) -> tf.Tensor:
    """Convert all calls of a layer to positions, and concatenate them."""
    parts = [positions(each) for each in calls]
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=2)


def _check_outputs(flat: list[tf.Tensor], observations: list[Observations]) -> None:
    if len(flat) != len(observations) or any(each.shape.rank < 2 for each in flat):
        shapes = [tuple(each.shape) for each in flat]
        raise ValueError(
            f"Expected outputs (N, ..., K), one for each of {len(observations)} likelihoods. "
            f"Received: shapes {shapes}. Hint: `likelihood` can be a structure of names like that "
            "of the model's outputs."
        )


def _rows_at_a_time(found: Found, is_diagonal: bool) -> int:
    """Return how many rows can be processed at once within the memory limit."""
    numbers = [
        each.numbers_per_row(num_positions, is_diagonal)
        for each, num_positions in zip(found.layers, found.num_positions)
    ]
    return int(np.clip(_MAX_NUMBERS // max(numbers), 1, BATCH_SIZE))


def _kronecker(gram: np.ndarray, curvature: np.ndarray, count: int) -> Block:
    if gram.ndim == 2:  # the diagonal of the input factor, from an embedding
        a, input_vectors = gram / count, None
    else:
        a, input_vectors = np.linalg.eigh(gram / count)
    b, output_vectors = np.linalg.eigh(curvature)
    eigenvalues = np.maximum(a, 0)[:, :, None] * np.maximum(b, 0)[:, None]
    return Block(eigenvalues, input_vectors, output_vectors)


def _check_layers(model: keras.Model, layers: list[LinearLayer], is_diagonal: bool) -> None:
    if not layers:
        raise ValueError(
            "Expected a `model` with trainable layers that apply a matrix at each position, such "
            f"as Dense, Conv2D, EinsumDense. Received: model={model.name!r} with none. "
            "Hint: Ensemble works with any model."
        )
    large = [each.layer.name for each in layers if each.largest_factor() > _MAX_SIZE]
    if large and not is_diagonal:
        raise ValueError(
            f"Expected layers with at most {_MAX_SIZE} inputs and units for "
            f"covariance='kronecker'. Received: layers {large} with more. "
            "Hint: use covariance='diagonal'."
        )


def _check_finite(finite: np.ndarray, start: int) -> None:
    bad = start + np.flatnonzero(~finite)
    if bad.size:
        raise ValueError(
            "Expected finite inputs and outputs for every row of `x`, with positive scales under "
            f"likelihood='normal'. Received: invalid rows {bad[:5].tolist()}. Hint: remove these "
            "rows or correct the inputs; a regression ends in tfp_bayes.layers.NormalParameters."
        )
