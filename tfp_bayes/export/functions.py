"""Functions drawn from a predictor, as one graph of constants without any random operation.

The outputs of a sample are traced once, with its number and the seed as inputs. In that graph

- what follows from the number and the seed alone (masks, weights) is computed once for each sample
  and becomes a constant;
- what depends on neither is shared: weights, and all layers before the first random one;
- the rest is repeated for each sample.

So a model of dropout holds its weights once, and S masks.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfp_bayes.prediction import Predictor

_INDEX, _SEED = "tfp_bayes_index", "tfp_bayes_seed"
_SIZES = ("Shape", "ShapeN", "Size", "Rank")  # do not depend on what is in a tensor
_RANDOM = ("Random", "Multinomial", "Rng")


class DrawnFunctions(NamedTuple):
    """S functions of a model's inputs, ready to be written into a graph.

    Attributes:
        shared: What all functions share; its placeholders are the inputs.
        own: What each function does on its own; its placeholders are `links` and `constants`.
        links: From the placeholders of `own` to the tensors of `shared` that they stand for.
        constants: For each function, the values of the other placeholders of `own`.
        output: The tensor of `own` (or of `shared`) that is the function's value.
    """

    shared: GraphDef
    own: GraphDef
    links: dict[str, str]
    constants: list[dict[str, np.ndarray]]
    output: str

    def outputs(self, inputs: Mapping[str, tf.Tensor]) -> Iterator[tf.Tensor]:
        """Builds the graph of the S outputs (N, ..., K).

        Args:
            inputs: Tensors by the names of the specifications that `draw_functions` was given.
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
) -> DrawnFunctions:
    """Draws the functions that `predictor.predict_uncertainty(x, num_samples, seed)` averages.

    Args:
        predictor: Of a model with one output.
        specs: The model's inputs, flat, with names.
        structure: Anything in the structure in which the model takes them.
        num_samples: S.
        seed: int32 (2,).

    Raises:
        ValueError: If noise depends on the inputs, or on the number of rows.
    """
    traced, output = _trace(predictor, specs, structure)
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
    """Returns the graph of one function, its variables frozen, and the name of its output."""

    def one(*arguments):
        *inputs, index, seed = arguments
        inputs = keras.tree.pack_sequence_as(structure, inputs)
        values = predictor.share(inputs, masks_on_kernels=False)
        return keras.tree.flatten(predictor.draw(values, index, seed))

    more = [tf.TensorSpec([], tf.int32, _INDEX), tf.TensorSpec([2], tf.int32, _SEED)]
    concrete = tf.function(one, autograph=False).get_concrete_function(*specs, *more)
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    return frozen.graph.as_graph_def(), frozen.outputs[0].name


def example_shape(spec: tf.TensorSpec, number: int) -> list[int]:
    """Returns shapes that differ in each free size; most networks of images accept them."""
    sizes = (32 + 16 * number if size is None else size for size in spec.shape[1:])
    return [2 + number, *sizes]


class _Parts:
    """The operations of a graph by what they depend on.

    Args:
        graph: The graph of one function.
        inputs: Names of its inputs.
        output: Its output.
        by_size: Operations to take for dependent on the inputs, because a free size of those, such
            as the number of rows, changes what they return.
    """

    def __init__(
        self,
        graph: tf.Graph,
        inputs: list[str],
        output: tf.Tensor,
        by_size: Set[tf.Operation] = frozenset(),
    ):
        self.by_size = by_size
        self.sampled: set[tf.Operation] = set()  # depend on sample or seed
        self._fed: set[tf.Operation] = set()  # depend on what the inputs hold
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
                "Received: a model without either. Hint: keras.Model.export writes models that "
                "are not random."
            )
        read = {tensor.ref(): None for op in self.own for tensor in op.inputs}
        self.read = [ref.deref() for ref in read if ref.deref().op not in known]
        self.drawn = [tensor for tensor in self.read if tensor.op in self.sampled]

    def check(self) -> None:
        """Raises ValueError if noise would stay in the functions."""
        for op in self.own:
            if any(each in op.type for each in _RANDOM):
                raise ValueError(
                    "Expected noise that is drawn once for all rows. Received: operation "
                    f"{op.name!r}, which depends on the inputs or on a size of theirs that is "
                    "free. Hint: fix all sizes but the number of rows in keras.Input, or export "
                    'with format="tf_saved_model", which carries any model.'
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
