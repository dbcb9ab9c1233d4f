"""Draw functions from a predictor, as a graph of constants without random operations.

The outputs of a sample are traced once, with the index of the sample and the seed as inputs.
Tensors in that graph are of three kinds:

- Tensors that depend only on the index and the seed (masks, random weights) are computed once for
  each sample and become constants.
- Tensors that depend on neither are shared: weights, and all layers before the first random one.
- All other tensors are computed for each sample.

A dropout model therefore holds its weights once, and S masks.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfp_bayes._plumbing.random_operations import is_random
from tfp_bayes.prediction import Predictor

_INDEX, _SEED = "tfp_bayes_index", "tfp_bayes_seed"
_SIZES = ("Shape", "ShapeN", "Size", "Rank")  # do not depend on the values of a tensor


class DrawnFunctions(NamedTuple):
    """S functions of a model's inputs, ready to be written into a graph.

    Attributes:
        shared: Graph that all functions share. Its placeholders are the inputs.
        own: Graph that is repeated for each function. Its placeholders are the keys of `links` and
            `constants`.
        links: Names of tensors of `shared`, keyed by the placeholders of `own` that they feed.
        constants: For each function, the values of the other placeholders of `own`.
        output: Name of the tensor of `own` that is the value of the function.
    """

    shared: GraphDef
    own: GraphDef
    links: dict[str, str]
    constants: list[dict[str, np.ndarray]]
    output: str

    def outputs(self, inputs: Mapping[str, tf.Tensor]) -> Iterator[tf.Tensor]:
        """Build the graph of the S outputs (N, ..., K).

        Args:
            inputs: Input tensors, keyed by the names of the `specs` of `draw_functions`.
        """
        names = list(self.links.values())
        tensors = tf.graph_util.import_graph_def(self.shared, dict(inputs), names, name="shared")
        links = dict(zip(self.links, tensors))
        for s, values in enumerate(self.constants):
            given = links | {name: tf.constant(value) for name, value in values.items()}
            (output,) = tf.graph_util.import_graph_def(
                self.own, given, [self.output], name=f"function_{s}"
            )
            yield output


def draw_functions(
    predictor: Predictor,
    specs: Sequence[tf.TensorSpec],
    structure,
    num_samples: int,
    seed: np.ndarray,
    replaces_softplus: bool = False,
) -> DrawnFunctions:
    """Draw the functions that `predictor.predict_uncertainty(x, num_samples, seed)` averages.

    Args:
        predictor: Predictor of a model with one output.
        specs: Specifications of the model's inputs, as a flat sequence with names.
        structure: Any object with the structure of the model's inputs.
        num_samples: Number of samples S.
        seed: Array (2,) of int32.
        replaces_softplus: Whether the runtime computes softplus as log(1 + exp(x)), which is
            infinite above 88, as LiteRT does. It then becomes max(x, 0) + log(1 + exp(-|x|)).

    Raises:
        ValueError: If noise depends on the inputs, or on the number of rows.
    """
    traced, output = _trace(predictor, specs, structure)
    if replaces_softplus:
        _replace_softplus(traced)
    names = [spec.name for spec in specs]
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(traced, name="")
        output = graph.get_tensor_by_name(output)

        def values(tensors: list[tf.Tensor], index: int, example: int = 0) -> list[np.ndarray]:
            feed = {f"{_INDEX}:0": index, f"{_SEED}:0": seed}
            for spec in specs:
                zeros = np.zeros(example_shape(spec, example), spec.dtype.as_numpy_dtype)
                feed[f"{spec.name}:0"] = zeros
            return session.run(tensors, feed) if tensors else []

        parts = _Parts(graph, names, output)
        while changing := [
            tensor
            for tensor, *pair in zip(parts.drawn, *(values(parts.drawn, 0, i) for i in (0, 1)))
            if not np.array_equal(*pair)
        ]:
            parts = _Parts(graph, names, output, parts.by_size | {each.op for each in changing})
        parts.check()
        constants = [values(parts.drawn, s) for s in range(num_samples)]
        placeholders = {tensor.name: f"outside_{i}" for i, tensor in enumerate(parts.read)}
        return DrawnFunctions(
            _shared(traced, parts),
            _own(traced, parts, placeholders),
            {placeholders[t.name]: t.name for t in parts.read if t.op not in parts.sampled},
            [{placeholders[t.name]: v for t, v in zip(parts.drawn, each)} for each in constants],
            output.name,
        )


def _trace(predictor: Predictor, specs: Sequence[tf.TensorSpec], structure) -> tuple[GraphDef, str]:
    """Return the graph of one function with frozen variables, and the name of its output."""

    def one(*arguments):
        *inputs, index, seed = arguments
        inputs = keras.tree.pack_sequence_as(structure, inputs)
        values = predictor.share(inputs, masks_on_kernels=False)
        return keras.tree.flatten(predictor.draw(values, index, seed))

    more = [tf.TensorSpec([], tf.int32, _INDEX), tf.TensorSpec([2], tf.int32, _SEED)]
    concrete = tf.function(one, autograph=False).get_concrete_function(*specs, *more)
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    return frozen.graph.as_graph_def(), frozen.outputs[0].name


def _replace_softplus(graph: GraphDef) -> None:
    """Replace softplus(x) by max(x, 0) + log(1 + exp(-|x|)) in a graph."""
    for node in [each for each in graph.node if each.op == "Softplus"]:

        def add(op: str, *inputs: str, node=node) -> str:
            name = f"{node.name}/{op}"
            new = graph.node.add(name=name, op=op, input=inputs)
            new.attr["T"].CopyFrom(node.attr["T"])
            return name

        one = graph.node.add(name=f"{node.name}/one", op="Const")
        one.attr["dtype"].CopyFrom(node.attr["T"])
        dtype = tf.as_dtype(node.attr["T"].type)
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, dtype, []))
        small = add("Exp", add("Neg", add("Abs", node.input[0])))
        added = add("Relu", node.input[0]), add("Log", add("AddV2", small, one.name))
        node.op = "AddV2"
        del node.input[:]
        node.input.extend(added)


def example_shape(spec: tf.TensorSpec, number: int) -> list[int]:
    """Return an example shape. Free sizes depend on `number`, and suit most image networks."""
    sizes = (32 + 16 * number if size is None else size for size in spec.shape[1:])
    return [2 + number, *sizes]


class _Parts:
    """The operations of a graph, classified by their dependencies.

    Args:
        graph: The graph of one function.
        inputs: Names of the graph's inputs.
        output: Output of the graph.
        by_size: Operations that count as dependent on the inputs, because their values change
            with a free size of the inputs, such as the number of rows.
    """

    def __init__(
        self,
        graph: tf.Graph,
        inputs: list[str],
        output: tf.Tensor,
        by_size: Set[tf.Operation] = frozenset(),
    ):
        self.by_size = by_size
        self.sampled: set[tf.Operation] = set()  # depend on the sample index or the seed
        self._fed: set[tf.Operation] = set()  # depend on the values of the inputs
        for op in graph.get_operations():
            sources = {tensor.op for tensor in op.inputs}
            if op.name in (_INDEX, _SEED) or sources & self.sampled:
                self.sampled.add(op)
            is_size = op.type in _SIZES and op not in by_size
            if op.name in inputs or op in by_size or (sources & self._fed and not is_size):
                self._fed.add(op)
        self.own = [op for op in graph.get_operations() if op in self.sampled & self._fed]
        known = set(self.own)
        if output.op not in known:
            raise ValueError(
                "Expected outputs that depend on the inputs and differ from sample to sample. "
                "Received: a model whose outputs do not. Hint: export models that are not random "
                "with keras.Model.export."
            )
        read = {tensor.ref(): None for op in self.own for tensor in op.inputs}
        self.read = [ref.deref() for ref in read if ref.deref().op not in known]
        self.drawn = [tensor for tensor in self.read if tensor.op in self.sampled]

    def check(self) -> None:
        """Raise ValueError if the functions would contain random operations."""
        for op in self.own:
            if is_random(op.type):
                raise ValueError(
                    "Expected noise that is drawn once for all rows. Received: operation "
                    f"{op.name!r}, which depends on the inputs or on one of their free sizes. "
                    "Hint: fix all sizes but the number of rows in keras.Input, or export with "
                    'format="tf_saved_model", which supports every model.'
                )


def _shared(traced: GraphDef, parts: _Parts) -> GraphDef:
    todo, needed = [tensor.op for tensor in parts.read], set()
    while todo:
        op = todo.pop()
        if op.name not in needed and op not in parts.sampled:
            needed.add(op.name)
            todo += [tensor.op for tensor in op.inputs]
    graph = GraphDef(library=traced.library, versions=traced.versions)
    for original in traced.node:
        if original.name in needed or original.op == "Placeholder":
            node = graph.node.add()
            node.CopyFrom(original)
            del node.input[:]
            node.input.extend(x for x in original.input if not x.startswith("^"))
    return graph


def _own(traced: GraphDef, parts: _Parts, placeholders: dict[str, str]) -> GraphDef:
    graph = GraphDef(library=traced.library, versions=traced.versions)
    for tensor in parts.read:
        placeholder = graph.node.add(name=placeholders[tensor.name], op="Placeholder")
        placeholder.attr["dtype"].type = tensor.dtype.as_datatype_enum
    nodes = {node.name: node for node in traced.node}
    for op in parts.own:
        node = graph.node.add()
        node.CopyFrom(nodes[op.name])
        del node.input[:]
        node.input.extend(placeholders.get(tensor.name, tensor.name) for tensor in op.inputs)
    return graph
