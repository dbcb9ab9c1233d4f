"""Convert TensorFlow functions to files for LiteRT and ONNX Runtime, and run these files."""

import importlib
import tempfile
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

# The newest opset for which tf2onnx tests the operations of models. ONNX Runtime reads it since
# version 1.12.
_OPSET = 17


class Runtime(NamedTuple):
    """A file format and the runtime that reads it.

    Attributes:
        name: Name of the runtime.
        ending: Ending of file names.
        packages: Packages that are needed to write and check a file.
        convert: Function that converts a `tf.function` with named inputs and outputs to the bytes
            of a file. Its second argument is whether to round weights to 8 bits.
        run: Function that computes outputs by name from the bytes of a file and inputs by name.
    """

    name: str
    ending: str
    packages: tuple[str, ...]
    convert: Callable[[tf.types.experimental.PolymorphicFunction, bool], bytes]
    run: Callable[[bytes, Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def check_installed(format: str) -> None:
    """Raise ImportError with the name of the extra if a package of a format is not installed."""
    for package in RUNTIMES[format].packages:
        _import(package, format)


def _import(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Expected the package {package!r} for format={extra!r}. Received: {error}. "
            f'Hint: pip install "tfp_bayes[{extra}]".'
        ) from None


def _to_litert(function: tf.types.experimental.PolymorphicFunction, int8: bool) -> bytes:
    module = tf.Module()
    module.function = function
    signatures = {"serving_default": function.get_concrete_function()}
    with tempfile.TemporaryDirectory() as folder:
        # Only the signature of a SavedModel passes the names of inputs and outputs to the file.
        tf.saved_model.save(module, folder, signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, list(signatures))
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


def _run_litert(content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    interpreter = _import("ai_edge_litert.interpreter", "litert")
    runner = interpreter.Interpreter(model_content=content).get_signature_runner()
    return {name: np.array(value) for name, value in runner(**inputs).items()}


def _to_onnx(function: tf.types.experimental.PolymorphicFunction, int8: bool) -> bytes:
    del int8
    convert = _import("tf2onnx.convert", "onnx")
    concrete = function.get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete)
    names = sorted(concrete.structured_outputs)
    inputs = [tensor.name for tensor in frozen.inputs]
    outputs = [tensor.name for tensor in frozen.outputs]  # in the order of sorted names
    renamed = dict(zip(outputs, names)) | {name: name.split(":")[0] for name in inputs}
    model, _ = convert._convert_common(
        frozen.graph.as_graph_def(),
        name="tfp_bayes",
        input_names=inputs,
        output_names=outputs,
        tensors_to_rename=renamed,
        opset=_OPSET,
    )
    return model.SerializeToString()


def _run_onnx(content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = _import("onnxruntime", "onnx").InferenceSession(content)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs))))


RUNTIMES = {
    "litert": Runtime("LiteRT", ".tflite", ("ai_edge_litert",), _to_litert, _run_litert),
    "onnx": Runtime("ONNX Runtime", ".onnx", ("tf2onnx", "onnxruntime"), _to_onnx, _run_onnx),
}
