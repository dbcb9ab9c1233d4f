"""The Gaussian prior on kernels that are not random variables, and how dropout changes it."""

from collections.abc import Container
from typing import NamedTuple

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers, graph_nodes, graph_of
from tfp_bayes.layers import MCGRU, MCLSTM, MCConcreteDropout, MCDropout, VariationalLayer
from tfp_bayes.layers.prior_term import total

# Attributes of Keras layers that hold kernels. The first two are applied to the layer's inputs.
_ON_INPUTS = ("kernel", "depthwise_kernel")
_KERNELS = (*_ON_INPUTS, "pointwise_kernel", "recurrent_kernel")

# Layers and operations that keep dropped units at 0 and do not mix them with other units.
_TRANSPARENT = {
    *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6", "LeakyRelu", "Elu"),
    *("Tanh", "Gelu", "Silu", "Selu", "Abs", "Identity", "Dropout", "Masking"),
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Transpose", "Squeeze", "ExpandDims"),
    *("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "MaxPool"),
    *("AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "AveragePool"),
    *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"),
    *("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"),
    *("Cropping1D", "Cropping2D", "Cropping3D"),
    *("UpSampling1D", "UpSampling2D", "UpSampling3D"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
}


class Mask(NamedTuple):
    """The mask that one call of a dropout layer with a learned rate draws.

    Args:
        dropout: The dropout layer.
        call: The `id` of the call's node in the graph.
    """

    dropout: MCConcreteDropout
    call: int


class Keep(NamedTuple):
    """The probability that Monte Carlo dropout keeps a unit.

    Args:
        fixed: Product of 1 - p over the dropout layers with a fixed rate p.
        learned: Masks of the dropout layers with a learned rate.
    """

    fixed: float = 1.0
    learned: tuple[Mask, ...] = ()

    def after(self, node) -> "Keep":
        """Return the probability after another dropout layer is called on the units."""
        if isinstance(node.operation, MCConcreteDropout):
            mask = Mask(node.operation, id(node))
            return self._replace(learned=(*self.learned, mask))
        return self._replace(fixed=self.fixed * (1 - node.operation.rate))

    def probability(self) -> float | tf.Tensor:
        """Return a number, or a float32 scalar that is differentiable in the learned rates."""
        value = self.fixed
        for mask in self.learned:
            value = value * mask.dropout.keep_probability()
        return value


class Kernel(NamedTuple):
    """A kernel under a Gaussian prior.

    Args:
        value: The kernel as the layer uses it.
        owner: Model whose `prior_scale` s is the standard deviation of the prior.
        kept: Probability that dropout keeps a unit of the kernel's input.
    """

    value: tf.Tensor
    owner: keras.Model
    kept: Keep

    @property
    def keep(self) -> float | tf.Tensor:
        """The probability 1 - p that Monte Carlo dropout keeps a unit of the kernel's input."""
        return self.kept.probability()


def gaussian_penalty(
    model: keras.layers.Layer,
    owner: keras.layers.Layer | None = None,
    without: Container[int] = (),
) -> tf.Tensor:
    """Return the sum over kernels of |W|^2 / (2 s^2 (1 - p)), a float32 scalar in nats.

    The sum is the KL divergence of dropout, or of a point estimate, from a Gaussian prior, up to
    a constant. p is the rate of the `MCDropout` that the kernel's input passes, or 0 if there is
    none; see `kernels`. Each mask of an `MCConcreteDropout` adds -F H(p), which is not constant
    because p is learned.

    Args:
        model: The model.
        owner: Model to whose `prior_scale` the sum is restricted. None includes all kernels.
        without: The `id`s of kernels to leave out.

    Raises:
        ValueError: If no kernel under the prior reads the units of an `MCConcreteDropout`. Then
            no term would counterbalance the entropy of its rate.

    Reference:
        Gal and Ghahramani 2016, equation 7, arXiv:1506.02142. Kept units are scaled up here, so
        the M of the paper is W / (1 - p), and its (1 - p) |M|^2 is |W|^2 / (1 - p). Gal, Hron and
        Kendall 2017, equation 3, arXiv:1705.07832.
    """
    owners = _owners(model)
    if not owners:
        return tf.constant(0.0)
    keeps = _Keeps(model)
    found = _kernels(model, owners, keeps)
    terms = [
        tf.cast(total(tf.square(tf.cast(each.value, tf.float32))), tf.float32)
        / (2 * each.owner.prior_scale**2 * each.keep)
        for each in found
        if owner in (None, each.owner) and id(each.value) not in without
    ]
    read = {mask for each in found for mask in each.kept.learned}
    for layer in _learned_dropouts(model):
        if id(layer) in owners and owner in (None, owners[id(layer)]):
            masks = {mask for mask in read if mask.dropout is layer}
            _check_read(layer, masks, {mask for mask in keeps.masks if mask.dropout is layer})
            terms.append(len(masks) * layer.negative_entropy())
    return tf.add_n(terms) if terms else tf.constant(0.0)


def learned_rates(model: keras.layers.Layer) -> dict[str, tf.Tensor]:
    """Return the dropout rates that a model learns, under the keys `{layer name}_rate`."""
    return {f"{each.name}_rate": 1 - each.keep_probability() for each in _learned_dropouts(model)}


def _learned_dropouts(model: keras.layers.Layer) -> list[MCConcreteDropout]:
    dropouts = [each for each in flatten_layers(model) if isinstance(each, MCConcreteDropout)]
    return [each for each in dropouts if each.built and each.logit.trainable]


def _check_read(layer: MCConcreteDropout, read: set[Mask], masks: set[Mask]) -> None:
    if not read or masks - read:
        raise ValueError(
            "Expected the units of a dropout layer with a learned rate to reach a kernel under "
            "`prior_scale`, whose prior term balances the rate. Received: "
            f"{layer.name!r}, whose units reach no such kernel, or only one that is also applied "
            "to other units. Hint: put it directly before a Dense layer or convolution, after "
            "normalization and sums; or use MCDropout."
        )


def has_prior_scale(model: keras.layers.Layer) -> bool:
    """Return whether a model, or a model nested in it, has a `prior_scale`."""
    return any(_prior_scale(each) is not None for each in flatten_layers(model))


def kernels(model: keras.layers.Layer) -> list[Kernel]:
    """List the trainable kernels of a model that are under the `prior_scale` of a BayesianModel.

    Kernels are the attributes `kernel`, `depthwise_kernel`, `pointwise_kernel` and
    `recurrent_kernel` of layers. Each kernel is listed once, under the innermost model that has a
    `prior_scale`. Kernels of variational layers are left out, because they have their own priors.

    Dropout is traced through the graph and into nested models, as long as layers only reshape,
    pool or activate, and `Concatenate` joins tensors of equal rates. If dropped units are mixed
    with others before they reach the kernel (sums, normalization), the kernel counts as one without
    dropout. A shared kernel takes the lowest rate among its inputs. Kernels that read dropout with
    a learned rate are listed even if they are not trained.
    """
    return _kernels(model, _owners(model), _Keeps(model))


def _owners(model: keras.layers.Layer) -> dict[int, keras.layers.Layer]:
    """Return the model whose `prior_scale` applies to a layer, keyed by the layer's `id`."""
    owners = {}
    for outer in flatten_layers(model):  # outer models first
        if _prior_scale(outer) is not None:
            owners.update(dict.fromkeys(map(id, flatten_layers(outer)), outer))
    return owners


def _kernels(
    model: keras.layers.Layer, owners: dict[int, keras.layers.Layer], keeps: "_Keeps"
) -> list[Kernel]:
    found: dict[int, Kernel] = {}
    for layer in flatten_layers(model):
        if id(layer) not in owners or isinstance(layer, VariationalLayer):
            continue
        for name in _KERNELS:
            value = getattr(layer, name, None)
            kept = keeps.of(layer, name)
            if _is_trainable(value) or (value is not None and kept.learned):
                found.setdefault(id(value), Kernel(value, owners[id(layer)], kept))
    return list(found.values())


def _prior_scale(layer: keras.layers.Layer) -> float | None:
    return layer.prior_scale if hasattr(layer, "prior_penalty") else None


def _is_trainable(value) -> bool:
    if isinstance(value, keras.Variable):
        return value.trainable
    return tf.is_tensor(value)  # the kernel of a LoRA layer, computed from trained factors


class _Keeps:
    """For each layer, the probability that dropout keeps a unit of its input."""

    def __init__(self, model: keras.layers.Layer) -> None:
        self.masks: set[Mask] = set()
        self._on_inputs: dict[int, Keep] = {}
        self._on_states: dict[int, Keep] = {}
        self._followed: set[int] = set()
        for each in flatten_layers(model):
            self._follow(each)

    def of(self, layer: keras.layers.Layer, name: str) -> Keep:
        """Return the probability for the input of the kernel of this name."""
        known = {**dict.fromkeys(_ON_INPUTS, self._on_inputs), "recurrent_kernel": self._on_states}
        return known.get(name, {}).get(id(layer), Keep())

    def _follow(self, layer: keras.layers.Layer) -> None:
        """Trace dropout through the graph of a model, unless an outer model already did."""
        graph = graph_of(layer)
        if graph is not None and id(graph) not in self._followed:
            self._run(graph, [Keep()] * len(graph.inputs))

    def _run(self, graph: keras.Function, inputs: list[Keep]) -> list[Keep]:
        """Return the probabilities for a graph's outputs, and record those for its layers."""
        self._followed.add(id(graph))
        keep = {id(tensor): value for tensor, value in zip(graph.inputs, inputs)}
        for node in graph_nodes(graph):
            seen = [keep.get(id(tensor), Keep()) for tensor in node.input_tensors]
            results = self._apply(node, seen)
            keep.update(zip(map(id, node.outputs), results))
        return [keep.get(id(tensor), Keep()) for tensor in graph.outputs]

    def _apply(self, node, seen: list[Keep]) -> list[Keep]:
        operation = node.operation
        nested = graph_of(operation) if isinstance(operation, keras.layers.Layer) else None
        if nested is not None and len(nested.inputs) == len(seen):
            return self._run(nested, seen)
        result = Keep()
        if len(seen) == 1:
            self._note(operation, seen[0], Keep())
            if isinstance(operation, MCDropout | MCConcreteDropout):
                result = seen[0].after(node)
                self.masks.update(result.learned)
            elif type(operation).__name__ in _TRANSPARENT:
                result = seen[0]
        elif type(operation).__name__ == "Concatenate" and len(set(seen)) == 1:
            result = seen[0]
        return [result] * len(node.outputs)

    def _note(self, layer, keep: Keep, state: Keep) -> None:
        """Record the probabilities for a layer and for the layers inside it that read its input."""
        if isinstance(layer, MCGRU | MCLSTM):
            keep = keep._replace(fixed=keep.fixed * (1 - layer.dropout))
            state = Keep(1 - layer.recurrent_dropout)
        self._on_inputs[id(layer)] = _likelier(keep, self._on_inputs.get(id(layer), keep))
        self._on_states[id(layer)] = state
        for name in ("layer", "forward_layer", "backward_layer", "cell"):
            inner = getattr(layer, name, None)
            if isinstance(inner, keras.layers.Layer):
                self._note(inner, keep, state)


def _likelier(a: Keep, b: Keep) -> Keep:
    """Combine the probabilities of two inputs of a shared kernel.

    The larger one counts. Learned rates cannot be compared, so the kernel then counts as one
    without dropout.
    """
    if a.learned != b.learned:
        return Keep()
    return max(a, b, key=lambda each: each.fixed)
