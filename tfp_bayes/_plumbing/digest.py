"""Short digests that tell one data set, network or oracle from another."""

import hashlib
import json
from typing import Any

import numpy as np

WHOLE = 2**28  # bytes of an array that are read whole; of what is larger, some rows
ROWS = 256  # rows read of what is larger than that or not in memory


def digest(value: Any) -> str:
    """Returns a digest of nested dictionaries, sequences, numbers, strings and arrays.

    Arrays count by shape, dtype and bytes. Anything else counts by the name of its class, so that
    the digest is the same in the next process.
    """
    found = hashlib.sha256()
    _update(found, value)
    return found.hexdigest()[:16]


def digest_rows(rows: Any) -> str:
    """Returns a digest of inputs that are had by index, see `tfp_bayes.active.rows`.

    Arrays of up to 256 MiB in memory are read whole. Of larger ones, of files and of streams,
    256 rows evenly spaced count, and the number of rows: permuted or noisy rows are noticed, a
    change in one row may not be.
    """
    if type(rows) is np.ndarray and rows.nbytes <= WHOLE:
        return digest(rows)
    chosen = np.unique(np.linspace(0, len(rows) - 1, ROWS).astype("int64"))
    return digest([len(rows), np.asarray(rows[chosen])])


def digest_network(model: Any) -> str:
    """Returns a digest of a model's configuration, loss, optimizer and shapes of weights.

    Names of layers do not count, because Keras numbers them anew for each model of a process; nor
    do settings that are None, because releases of Keras add some. A model without `get_config`
    counts by its class and the shapes of its weights.
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
        return None  # written by hand, or of another library


def _is_object(record: dict) -> bool:
    """Check for what Keras serialized and named itself; the name of a dtype policy is its value."""
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
    """Replaces names of layers by their order where they stand for the graph, or drops them."""
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
