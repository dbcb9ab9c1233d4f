"""The Gaussian prior of kernels that are no random variables, and what dropout makes of it."""

from collections.abc import Container
from typing import NamedTuple

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers, graph_nodes, graph_of
from tfp_bayes.layers import MCGRU, MCLSTM, MCConcreteDropout, MCDropout, VariationalLayer
from tfp_bayes.layers.prior_term import total

# Attributes of Keras' layers that hold kernels. The first two meet the layer's inputs.
_ON_INPUTS = ("kernel", "depthwise_kernel")
_KERNELS = (*_ON_INPUTS, "pointwise_kernel", "recurrent_kernel")

# What lets units that are 0 stay 0 without mixing them with others: layers and operations.
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
    """A call of a dropout whose rate is learned: each call draws a mask of its own.

    Args:
        dropout: The layer.
        call: The id of its node in the graph.
    """

    dropout: MCConcreteDropout
    call: int


class Keep(NamedTuple):
    """The probability that Monte Carlo dropout keeps a unit.

    Args:
        fixed: Product of 1 - p over the dropouts whose rate p is fixed.
        learned: The masks of those whose rate is learned.
    """

    fixed: float = 1.0
    learned: tuple[Mask, ...] = ()

    def after(self, node) -> "Keep":
        """Returns the probability behind a call of a dropout on units kept with this one."""
        if isinstance(node.operation, MCConcreteDropout):
            mask = Mask(node.operation, id(node))
            return self._replace(learned=(*self.learned, mask))
        return self._replace(fixed=self.fixed * (1 - node.operation.rate))

    def probability(self) -> float | tf.Tensor:
        """Returns the number, or a float32 scalar that is differentiable in the rates learned."""
        value = self.fixed
        for mask in self.learned:
            value = value * mask.dropout.keep_probability()
        return value


class Kernel(NamedTuple):
    """A kernel under a Gaussian prior.

    Args:
        value: The kernel as the layer uses it.
        owner: The model whose `prior_scale` s is the prior's standard deviation.
        kept: How probably a unit of its input is kept.
    """

    value: tf.Tensor
    owner: keras.Model
    kept: Keep

    @property
    def keep(self) -> float | tf.Tensor:
        """1 - p, the probability that a unit of its input is kept by Monte Carlo dropout."""
        return self.kept.probability()


def gaussian_penalty(
    model: keras.layers.Layer,
    owner: keras.layers.Layer | None = None,
    without: Container[int] = (),
) -> tf.Tensor:
    """Returns the sum over kernels of |W|^2 / (2 s^2 (1 - p)), a float32 scalar in nats.

    The KL divergence of dropout or a point estimate from a Gaussian prior, up to a constant. p is
    the rate of the `MCDropout` that a kernel's input has passed, 0 without; see `kernels`. Each
    mask of an `MCConcreteDropout`, whose rate is learned, adds -F H(p), no constant there.

    Args:
        model: The model.
        owner: Only of kernels under the `prior_scale` of this model; None is all.
        without: Ids of kernels that do not count.

    Raises:
        ValueError: If no kernel under the prior reads the units of an `MCConcreteDropout`, whose
            rate nothing would be weighed against.

    Reference:
        Gal and Ghahramani 2016, equation 7, arXiv:1506.02142: kept units are scaled up here, so
        that their M is W / (1 - p), and (1 - p) |M|^2 this number. Gal, Hron and Kendall 2017,
        equation 3, arXiv:1705.07832.
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
    """Returns the dropout rates that a model learns, as `{name}_rate` of the layer."""
    return {f"{each.name}_rate": 1 - each.keep_probability() for each in _learned_dropouts(model)}


def _learned_dropouts(model: keras.layers.Layer) -> list[MCConcreteDropout]:
    dropouts = [each for each in flatten_layers(model) if isinstance(each, MCConcreteDropout)]
    return [each for each in dropouts if each.built and each.logit.trainable]


def _check_read(layer: MCConcreteDropout, read: set[Mask], masks: set[Mask]) -> None:
    if not read or masks - read:
        raise ValueError(
            "Expected units of a learned dropout rate to reach a kernel under `prior_scale`, which "
            f"the rate is weighed against. Received: {layer.name!r}, whose units reach none, or "
            "one that others reach too. Hint: put it right before a Dense layer or convolution, "
            "behind normalization and sums; or use MCDropout."
        )


def has_prior_scale(model: keras.layers.Layer) -> bool:
    """Tells whether a model, or one inside it, has a `prior_scale`."""
    return any(_prior_scale(each) is not None for each in flatten_layers(model))


def kernels(model: keras.layers.Layer) -> list[Kernel]:
    """Lists the trainable kernels of a model that are under the `prior_scale` of a BayesianModel.

    Kernels are what layers hold as `kernel`, `depthwise_kernel`, `pointwise_kernel` and
    `recurrent_kernel`; of models in one another the innermost with a `prior_scale` counts, and
    each kernel once. Variational layers have priors of their own.

    Dropout is followed through the graph, into nested models too, as far as layers reshape, pool
    and activate, and `Concatenate` joins tensors of one rate. Where it is mixed with other units
    before it meets the kernel (sums, normalization) the kernel counts as without. A shared kernel
    takes the lowest rate that it meets. Kernels that read a dropout whose rate is learned are
    listed if they are not trained too.
    """
    return _kernels(model, _owners(model), _Keeps(model))


def _owners(model: keras.layers.Layer) -> dict[int, keras.layers.Layer]:
    """Returns the model whose `prior_scale` a layer is under, by the id of the layer."""
    owners = {}
    for outer in flatten_layers(model):  # from the outside in
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
    return tf.is_tensor(value)  # a kernel with LoRA, whose factors are trained


class _Keeps:
    """The probability, for each layer, that a unit of its input was kept."""

    def __init__(self, model: keras.layers.Layer) -> None:
        self.masks: set[Mask] = set()
        self._on_inputs: dict[int, Keep] = {}
        self._on_states: dict[int, Keep] = {}
        self._followed: set[int] = set()
        for each in flatten_layers(model):
            self._follow(each)

    def of(self, layer: keras.layers.Layer, name: str) -> Keep:
        """Returns the probability for what the kernel of this name meets."""
        known = {**dict.fromkeys(_ON_INPUTS, self._on_inputs), "recurrent_kernel": self._on_states}
        return known.get(name, {}).get(id(layer), Keep())

    def _follow(self, layer: keras.layers.Layer) -> None:
        """Follows dropout through the graph of a model, unless an outer one has led there."""
        graph = graph_of(layer)
        if graph is not None and id(graph) not in self._followed:
            self._run(graph, [Keep()] * len(graph.inputs))

    def _run(self, graph: keras.Function, inputs: list[Keep]) -> list[Keep]:
        """Returns the probabilities of a graph's outputs, and notes those of its layers."""
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
        """Notes what a layer meets, and those inside it that get its input."""
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
    """Returns what a kernel that meets both counts as; learned rates cannot be compared."""
    if a.learned != b.learned:
        return Keep()
    return max(a, b, key=lambda each: each.fixed)
