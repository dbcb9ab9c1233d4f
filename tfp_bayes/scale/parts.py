"""Parts as Parquet files: columns, and a record in the footer that can be read on its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes._plumbing.ray_workers import EXTRA

_KEY = b"tfp_bayes"


def pyarrow() -> Any:
    """Import PyArrow with its Parquet module.

    Raises:
        ImportError: If it is missing. The error names the extra to install.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"Expected PyArrow for Parquet files. Received: {error}. {EXTRA}"
        ) from None
    return pyarrow


def to_parquet(columns: dict[str, np.ndarray], record: dict) -> bytes:
    """Return the bytes of a Parquet file of columns (n,) or (n, K).

    The same values always give the same bytes.
    """
    arrow = pyarrow()
    arrays = {}
    for name, values in columns.items():
        flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
        if values.ndim == 2:
            flat = arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
        arrays[name] = flat
    table = arrow.table(arrays).replace_schema_metadata({_KEY: json.dumps(record).encode()})
    sink = arrow.BufferOutputStream()
    arrow.parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def read_record(path: Path) -> dict:
    """Return the record in the footer of a part.

    Raises:
        ValueError: If the file is not a part, or is damaged.
    """
    arrow = pyarrow()
    try:
        metadata = arrow.parquet.read_metadata(path).metadata or {}
        return json.loads(metadata[_KEY])
    except (arrow.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None


def read_columns(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return columns (n,) or (n, K) of a part by name. None reads all columns.

    Raises:
        ValueError: If the file is not a part, or is damaged.
    """
    arrow = pyarrow()
    try:
        table = arrow.parquet.read_table(path, columns=names, use_threads=False)
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    columns = {}
    for name in table.column_names:
        values = table[name].combine_chunks()
        if arrow.types.is_fixed_size_list(values.type):
            flat = values.flatten().to_numpy(zero_copy_only=False)
            columns[name] = flat.reshape(-1, values.type.list_size)
        else:
            columns[name] = values.to_numpy(zero_copy_only=False)
    return columns


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"Expected a part in {path}. Received: {error or type(error).__name__}. "
        "Hint: remove that file and start again; missing parts are made again."
    )
