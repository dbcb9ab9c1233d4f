"""Files for LiteRT and ONNX Runtime: from a function of TensorFlow to bytes, and their answers."""

import importlib
import tempfile
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

# The newest that tf2onnx is tested with for what models use; read by every ONNX Runtime since 1.12.
_OPSET = 17


class Runtime(NamedTuple):
    """A kind of file, and the runtime that reads it.

    Attributes:
        name: Of the runtime.
        ending: Of the file's name.
        packages: What has to be installed to write and check a file.
        convert: From a `tf.function` with named inputs and outputs, and whether to round weights
            to 8 bits, to the bytes of a file.
        run: From such bytes and inputs by name to outputs by name.
    """

    name: str
    ending: str
    packages: tuple[str, ...]
    convert: Callable[[tf.types.experimental.PolymorphicFunction, bool], bytes]
    run: Callable[[bytes, Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def check_installed(format: str) -> None:
    """Raises ImportError, naming the extra, unless the packages of a format are installed."""
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
        # The file takes the names of inputs and outputs from the signature of a SavedModel only.
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
