"""The layers of a network that are linear maps: what goes into them and what comes out."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers

_CONV = (keras.layers.Conv1D, keras.layers.Conv2D)


class WeightMatrix:
    """A kernel and perhaps a bias as one matrix W (F, U), the bias as its last row.

    Args:
        variables: Kernel (..., U) and, if there is one, bias (U,).

    Attributes:
        variables: As given.
        shape: (F, U).
    """

    def __init__(self, variables: Sequence[keras.Variable]):
        self.variables = list(variables)
        kernel = self.variables[0]
        num_rows = int(np.prod(kernel.shape[:-1])) + len(self.variables) - 1
        self.shape = (num_rows, kernel.shape[-1])

    def read(self) -> np.ndarray:
        """Returns W as it is now, float64."""
        rows = [v.numpy().astype("float64").reshape(-1, self.shape[1]) for v in self.variables]
        return np.concatenate(rows)

    def split(self, weights: tf.Tensor) -> list[tf.Tensor]:
        """Splits W into one tensor for each of `variables`."""
        parts = [weights] if len(self.variables) == 1 else [weights[:-1], weights[-1]]
        return [tf.cast(tf.reshape(p, v.shape), v.dtype) for p, v in zip(parts, self.variables)]


class LinearLayer(WeightMatrix):
    """A Dense layer or a convolution, used once, that maps positions by its weights.

    It maps (N, T, F) of its input, with a 1 for the bias, to (N, T, U) of its output before the
    activation. A Dense layer of vectors has T = 1.

    Args:
        layer: Built, see `find_linear_layers`.
        num_positions: T.
    """

    def __init__(self, layer: keras.layers.Layer, num_positions: int):
        super().__init__([layer.kernel] if layer.bias is None else [layer.kernel, layer.bias])
        self.layer = layer
        self.num_positions = num_positions

    def inputs(self, x: tf.Tensor) -> tf.Tensor:
        """Returns what each position of the output is a linear map of, (N, T, F) float64."""
        if isinstance(self.layer, _CONV):
            x = self._patches(x)
        x = tf.cast(tf.reshape(x, [tf.shape(x)[0], -1, x.shape[-1]]), tf.float64)
        if len(self.variables) == 1:
            return x
        return tf.concat([x, tf.ones_like(x[..., :1])], axis=-1)

    def outputs(self, z: tf.Tensor) -> tf.Tensor:
        """Returns values or gradients of the output as positions, (N, T, U) float64."""
        return tf.cast(tf.reshape(z, [tf.shape(z)[0], -1, self.shape[1]]), tf.float64)

    def _patches(self, x: tf.Tensor) -> tf.Tensor:
        """Returns patches in the order of the kernel's rows, (N, H, W, F)."""
        layer = self.layer
        if layer.rank == 1:
            x = x[:, None]
        leading = [1] * (3 - layer.rank)  # of the batch, and of a height that is none
        sizes = [*leading, *layer.kernel_size, 1]
        strides = [*leading, *layer.strides, 1]
        rates = [*leading, *layer.dilation_rate, 1]
        return tf.image.extract_patches(x, sizes, strides, rates, layer.padding.upper())


def find_linear_layers(
    model: keras.Model, run: Callable, spec
) -> tuple[list[LinearLayer], list[keras.Variable]]:
    """Finds the layers whose weights a Kronecker factorization describes.

    Args:
        model: A built model of any kind.
        run: Calls it on inputs.
        spec: Specification of its inputs with all sizes known.

    Returns:
        The layers in the order in which they run, and the other trainable variables.
    """
    candidates = [layer for layer in _leaves(model) if _is_linear(layer)]
    owners: dict[int, int] = {}
    for each in _leaves(model):
        for variable in each.variables:
            owners[id(variable)] = owners.get(id(variable), 0) + 1
    found: list[LinearLayer] = []

    def trace(inputs):
        found.clear()  # TensorFlow may trace again
        graph = tf.compat.v1.get_default_graph()
        with recorded(candidates) as records:
            run(inputs)
        for layer, calls in records.items():
            z = calls[0][1]
            # Inside another graph, as in a loop over time steps, it runs once for each; and what
            # has not one row for each example mixes them up.
            is_plain = len(calls) == 1 and z.graph is graph and z.shape.is_fully_defined()
            if is_plain and z.shape[0] == 1:
                found.append(LinearLayer(layer, int(np.prod(z.shape[1:-1]))))
        return tf.zeros([])

    tf.function(trace, autograph=False).get_concrete_function(spec)
    found = [each for each in found if all(owners[id(v)] == 1 for v in each.variables)]
    used = {id(v) for each in found for v in each.variables}
    return found, [v for v in model.trainable_variables if id(v) not in used]


@contextlib.contextmanager
def recorded(layers: list[keras.layers.Layer]) -> Iterator[dict]:
    """Notes what goes into layers, and what comes out before the activation, as they are called.

    Yields:
        For each layer that was called, the pairs of both.
    """
    records: dict[keras.layers.Layer, list[tuple[tf.Tensor, tf.Tensor]]] = {}

    def noting(layer: keras.layers.Layer, call: Callable) -> Callable:
        def noted(x, *args, **kwargs):
            activation = layer.activation

            def note(z):
                records.setdefault(layer, []).append((x, z))
                return activation(z)

            layer.activation = note
            try:
                return call(x, *args, **kwargs)
            finally:
                layer.activation = activation

        return noted

    for layer in layers:
        layer.call = noting(layer, layer.call)
    try:
        yield records
    finally:
        for layer in layers:
            del layer.call


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    layers = {id(layer): layer for layer in flatten_layers(model)}  # a shared one is listed twice
    return [layer for layer in layers.values() if len(flatten_layers(layer)) == 1]


def _is_linear(layer: keras.layers.Layer) -> bool:
    kind = next((k for k in (keras.layers.Dense, *_CONV) if isinstance(layer, k)), None)
    if kind is None or type(layer).call is not kind.call or "call" in vars(layer):
        return False
    if kind in _CONV:
        known = layer.groups == 1 and layer.data_format == "channels_last"
        if not known or layer.padding == "causal":
            return False
    changed = layer.lora_enabled or getattr(layer, "quantization_mode", None) is not None
    trained = {id(v) for v in layer.trainable_variables}
    own = [layer.kernel] if layer.bias is None else [layer.kernel, layer.bias]
    return not changed and all(id(v) in trained for v in own)
