"""Signatures of a prediction's inputs, and padding of batches to whole blocks of rows."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import graph_of

# TensorFlow's CPU kernels multiply matrices in blocks of rows (6 with AVX2, 8 or 16 with AVX-512).
# They compute left-over rows in another way, which rounds differently. Batches are padded to a
# multiple of all block sizes, so the prediction of a row does not depend on its place in a batch.
ROWS = 48


def signature(model: keras.Model, batch):
    """Return the specs of inputs like a batch, with None for sizes that the model leaves open.

    Args:
        model: A model. A subclassed one has no input sizes, so only the number of rows is None.
        batch: Inputs in any structure that the model takes.

    Raises:
        ValueError: If the number of inputs, their sizes, text instead of numbers, or fractions
            instead of integers do not match the graph of the model.
    """
    graph = graph_of(model)
    flat = keras.tree.flatten(batch)
    expected = [None] * len(flat) if graph is None else _matching(graph.input, batch)
    specs = [_spec(array, symbol) for array, symbol in zip(flat, expected)]
    return keras.tree.pack_sequence_as(batch, specs)


def _matching(expected, batch) -> list[keras.KerasTensor | None]:
    """List a model's inputs in the order of the flattened batch.

    For a model made from a list of inputs, a dictionary may have extra entries, for which the list
    has None. For a model made from a dictionary this is an error, because Keras would mix up the
    inputs.
    """
    symbols = keras.tree.flatten(expected)
    flat = keras.tree.flatten(batch)
    if isinstance(batch, dict):
        if isinstance(expected, dict):
            by_name, fits = expected, set(expected) == set(batch)
        else:
            by_name = {symbol.name: symbol for symbol in symbols}
            fits = set(by_name) <= set(batch)
        if fits:
            return keras.tree.flatten({name: by_name.get(name) for name in batch})
    elif len(symbols) == len(flat):
        return symbols
    raise ValueError(
        f"Expected the inputs {', '.join(repr(symbol.name) for symbol in symbols)} of the model. "
        f"Received: {type(batch).__name__} of {len(flat)} "
        f"({', '.join(batch) if isinstance(batch, dict) else 'without names'}). "
        "Hint: pass inputs alone, without targets, in the order of model.inputs or by name."
    )


def _spec(array, symbol: keras.KerasTensor | None) -> tf.TensorSpec:
    shape = list(array.shape)
    if symbol is not None and (array.dtype == tf.string) != (symbol.dtype == "string"):
        raise ValueError(
            f"Expected {symbol.dtype} for input {symbol.name!r}. Received: {array.dtype}. "
            "Hint: convert numbers that were read as text with x.astype('float32')."
        )
    if symbol is not None:
        check_cast(array, symbol.dtype, symbol.name)
    # Keras itself adds or removes a last axis of size 1.
    if symbol is not None and len(symbol.shape) == len(shape) + 1 and symbol.shape[-1] != 1:
        raise ValueError(
            f"Expected batches of shape {symbol.shape} for input {symbol.name!r}. "
            f"Received: shape {tuple(shape)}, which lacks the axis of examples or another one. "
            "Hint: use dataset.batch(256), or x[None] for one example."
        )
    if symbol is not None and len(symbol.shape) == len(shape):
        if any(fixed not in (None, n) for n, fixed in zip(shape[1:], symbol.shape[1:])):
            # Convolutions would accept this. Keras' own check is in the model's call, which the
            # prediction bypasses.
            raise ValueError(
                f"Expected batches of shape {symbol.shape} for input {symbol.name!r}. "
                f"Received: shape {tuple(shape)}, which is incompatible. Hint: resize or convert "
                "the inputs; a model with keras.Input((None, None, 3)) takes images of any size."
            )
        shape = [None if fixed is None else size for size, fixed in zip(shape, symbol.shape)]
    return tf.TensorSpec([None, *shape[1:]], array.dtype)


def check_cast(array, dtype: str, name: str) -> None:
    """Raise ValueError if a cast would round numbers, or wrap them around, to integers of an input.

    Pixels from 0 to 1 would all become 0, for example.

    Args:
        array: Values for the input. Those that are not finite are not checked.
        dtype: Name of the input's dtype.
        name: Name of the input, for the error.
    """
    if array.dtype == dtype or not keras.backend.is_int_dtype(dtype):
        return
    values = np.asarray(array)
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if known.dtype.kind not in "iuf" or not known.size:
        return
    limits = np.iinfo(dtype)
    fits = limits.min <= known.min() and known.max() <= limits.max
    if not fits or (known.dtype.kind == "f" and (known != np.floor(known)).any()):
        raise ValueError(
            f"Expected integers from {limits.min} to {limits.max} for input {name!r}, "
            f"whose dtype is {dtype}. Received: {values.dtype} from {known.min()} to "
            f"{known.max()}. Hint: pass the numbers that the model was trained on, such as pixels "
            "from 0 to 255."
        )


def whole_blocks(inputs) -> tuple[Any, tf.Tensor]:
    """Pad a batch to a multiple of `ROWS`. Return it with the original number of rows."""
    num_rows = tf.shape(keras.tree.flatten(inputs)[0])[0]
    missing = tf.maximum(-(-num_rows // ROWS), 1) * ROWS - num_rows

    def pad(x):
        # Repeat a row, because zeros may be invalid inputs. Do not use tf.pad: TensorFlow fuses it
        # into a convolution, which then sees the short batch.
        zeros = tf.zeros(tf.concat([[1], tf.shape(x)[1:]], axis=0), x.dtype)
        row = tf.concat([x[:1], zeros], axis=0)[:1]
        return tf.concat([x, tf.gather(row, tf.zeros([missing], tf.int32))], axis=0)

    return keras.tree.map_structure(pad, inputs), num_rows
