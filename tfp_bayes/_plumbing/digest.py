"""Short digests that identify a data set, a network or an oracle."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

WHOLE = 2**28  # bytes; arrays up to this size are read whole
ROWS = 256  # number of rows read from larger arrays and from data that are not in memory


def digest(value: Any) -> str:
    """Return a digest of nested dictionaries, sequences, numbers, strings and arrays.

    Of an array, the digest covers shape, dtype and bytes. Of a `tf.data.Dataset` or `PyDataset`, it
    covers the shapes and the number of batches, because data may be in another order each time. Of
    any other object, it covers only the name of the class, so that the digest is the same in the
    next process.
    """
    found = hashlib.sha256()
    _update(found, value)
    return found.hexdigest()[:16]


def checksum(arrays: Iterable[np.ndarray]) -> int:
    """Return a number that changes if the arrays are trained further, at the speed of memory.

    Unlike a digest, it may not change if values trade places.
    """
    total = 0
    for array in arrays:
        data = np.ascontiguousarray(array).reshape(-1).view("uint8")
        whole = len(data) // 8 * 8
        words = data[:whole].view("uint64").sum(dtype="uint64"), data[whole:].sum(dtype="uint64")
        total = hash((total, *map(int, words)))
    return total


def digest_rows(rows: Any) -> str:
    """Return a digest of inputs that are read by index, see `tfp_bayes.active.rows`.

    Arrays of up to 256 MiB in memory are read whole. For larger arrays, files and streams, the
    digest covers the number of rows and 256 evenly spaced rows. It detects permuted or noisy
    rows, but may miss a change in a single row.
    """
    if type(rows) is np.ndarray and rows.nbytes <= WHOLE:
        return digest(rows)
    return digest([len(rows), np.asarray(rows[spaced_rows(len(rows))])])


def spaced_rows(size: int) -> np.ndarray:
    """Return the indices of at most 256 evenly spaced rows, of none if there are none."""
    return np.unique(np.linspace(0, size - 1, ROWS if size else 0).astype("int64"))


def digest_network(model: Any) -> str:
    """Return a digest of a model's configuration, loss, optimizer and weight shapes.

    Names of layers are left out, because Keras numbers them differently for each model in a
    process. Settings that are None are left out too, because new releases of Keras add some. For
    a model without `get_config`, the digest covers its class and weight shapes.
    """
    config, compiled = (_ask(model, name) for name in ("get_config", "get_compile_config"))
    known = {"class_name": type(model).__name__, "config": config}
    names: dict[str, int] = {}
    _collect_names(known, names)
    weights = [(tuple(v.shape), str(v.dtype)) for v in model.variables]
    return digest([_without_names(known, names), _without_names(compiled, {}), weights])


def _ask(model: Any, name: str) -> Any:
    try:
        return getattr(model, name)()
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None  # a model written by hand, or from another library


def _is_object(record: dict) -> bool:
    """Return whether a record is an object that Keras serialized with a generated name.

    A dtype policy is not: its name is its value.
    """
    named = isinstance(record.get("config"), dict) and "class_name" in record
    return named and not str(record["class_name"]).endswith("DTypePolicy")


def _collect_names(value: Any, names: dict[str, int]) -> None:
    if isinstance(value, dict):
        if _is_object(value):
            for name in (value.get("name"), value["config"].get("name")):
                if isinstance(name, str):
                    names.setdefault(name, len(names))
        for each in value.values():
            _collect_names(each, names)
    elif isinstance(value, list | tuple):
        for each in value:
            _collect_names(each, names)


def _without_names(value: Any, names: dict[str, int], in_graph: bool = False) -> Any:
    """Replace layer names by their position where they describe the graph; drop them elsewhere."""
    if isinstance(value, dict):
        dropped = _is_object(value)
        kept = {}
        for key, each in value.items():
            if each is None or (dropped and key == "name"):
                continue
            if dropped and key == "config":
                each = {k: v for k, v in each.items() if k != "name"}
            graph = key in ("keras_history", "input_layers", "output_layers")
            kept[key] = _without_names(each, names, graph)
        return kept
    if isinstance(value, list | tuple):
        return [_without_names(each, names, in_graph) for each in value]
    return names.get(value, value) if in_graph and isinstance(value, str) else value


def _update(found: "hashlib._Hash", value: Any) -> None:
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        found.update(f"array {value.shape} {value.dtype.str}".encode())
        if value.dtype.hasobject:
            _update(found, value.tolist())
        else:
            found.update(np.ascontiguousarray(value).reshape(-1).view("uint8").data)
    elif isinstance(value, dict):
        found.update(f"dict {len(value)}".encode())
        for key in sorted(value, key=str):
            found.update(json.dumps(str(key)).encode())
            _update(found, value[key])
    elif isinstance(value, list | tuple | set | frozenset):
        each = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        found.update(f"list {len(each)}".encode())
        for part in each:
            _update(found, part)
    else:
        if isinstance(value, np.generic):
            value = value.item()
        plain = value is None or isinstance(value, bool | int | float | str)
        text = json.dumps(value) if plain else getattr(value, "__qualname__", type(value).__name__)
        found.update(text.encode())
        if hasattr(value, "element_spec"):  # tf.data.Dataset
            found.update(f"{value.element_spec} {int(value.cardinality())}".encode())
        elif hasattr(value, "num_batches"):  # PyDataset
            found.update(str(value.num_batches).encode())
