"""Rows of Parquet files, read by row groups."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes.scale.parts import pyarrow
from tfp_bayes.scale.rows import RowSource, absolute


@dataclasses.dataclass(frozen=True)
class ParquetRows(RowSource):
    """Rows of one Parquet file, or of all Parquet files in a folder, sorted by name.

    Files are read one row group at a time.

    Args:
        path: Path of the file or folder.
        columns: Names of numeric columns, which become features (N, F) float32, or of a single
            column of lists of equal length, whose numbers keep their type. None selects all columns
            except `label`. A missing number becomes NaN; in lists of integers it is an error.
        label: Name of the column of integer labels, or None.
        shape: Shape to which each row is reshaped, such as (28, 28, 1).

    Raises:
        ValueError: If a file is damaged, or a column is missing or has another type. Reading rows
            raises it if the lists of another file have another type.
        ImportError: If PyArrow is missing.
    """

    path: str | Path
    columns: tuple[str, ...] | None = None
    label: str | None = None
    shape: tuple[int, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, "path", absolute(self.path, "a Parquet file, or a folder of them"))
        columns = self.columns
        if columns is None:
            columns = [name for name in self._names if name != self.label]
        object.__setattr__(self, "columns", tuple(columns))
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(map(int, self.shape)))
        wanted = {*self.columns, *([] if self.label is None else [self.label])}
        if not self.columns or not wanted <= set(self._names):
            raise ValueError(
                f"Expected columns of {self.path}. Received: {sorted(wanted - set(self._names))}. "
                f"Hint: it has {self._names}."
            )
        _ = self.spec  # raises errors here rather than in every worker

    @functools.cached_property
    def _files(self) -> list[Any]:
        arrow, path = pyarrow(), Path(self.path)
        paths = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not paths:
            raise ValueError(
                f"Expected Parquet files in {path}. Received: none. Hint: their names must end "
                "in .parquet."
            )
        try:
            return [arrow.parquet.ParquetFile(each) for each in paths]
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(
                f"Expected Parquet files in {path}. Received: {error}. Hint: write the file again."
            ) from None

    @property
    def _names(self) -> list[str]:
        return self._files[0].schema_arrow.names

    @functools.cached_property
    def _groups(self) -> tuple[list[tuple[int, int]], np.ndarray]:
        """(File, number) of each row group, and the first row of each, followed by N."""
        places, sizes = [], []
        for i, file in enumerate(self._files):
            for j in range(file.metadata.num_row_groups):
                places.append((i, j))
                sizes.append(file.metadata.row_group(j).num_rows)
        return places, np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._groups[1][-1])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self._take(indices, 0)

    def labels(self, indices: np.ndarray) -> np.ndarray | None:
        """Return labels (n,), or None if there is no `label` column."""
        return None if self.label is None else self._take(indices, 1)

    def _take(self, indices: np.ndarray, which: int) -> np.ndarray:
        """Return the inputs (`which` = 0) or labels (`which` = 1) of the given rows."""
        indices = np.asarray(indices, "int64")
        starts = self._groups[1]
        groups = np.searchsorted(starts, indices, side="right") - 1
        values: np.ndarray | None = None
        for group in np.unique(groups).tolist():
            at = groups == group
            found = self._read(group)[which][indices[at] - starts[group]]
            if values is None:
                values = np.empty((len(indices), *found.shape[1:]), found.dtype)
            values[at] = found
        return self._read(0)[which][:0] if values is None else values

    def _read(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs and labels of a row group. The last group read is cached."""
        cached = self.__dict__.get("_cached")
        if cached is None or cached[0] != group:
            file, number = self._groups[0][group]
            names = [*self.columns, *([] if self.label is None else [self.label])]  # type: ignore[misc]
            table = self._files[file].read_row_group(number, columns=names)
            x = self._inputs(table)
            self._check_form(x, file)
            cached = self.__dict__["_cached"] = group, (x, self._labels(table))
        return cached[1]

    def _check_form(self, x: np.ndarray, file: int) -> None:
        """Raise ValueError if lists of another file have another type, which a cast would round."""
        form = x.dtype.name, x.shape[1:]
        first = self.__dict__.setdefault("_form", form)
        if form != first:
            raise ValueError(
                f"Expected rows of {first[0]} {first[1]} in all files of {self.path}. Received: "
                f"{form[0]} {form[1]} in file {file + 1} of {len(self._files)}. "
                "Hint: write all files with the same schema, and numbers of the same range."
            )

    def _inputs(self, table: Any) -> np.ndarray:
        arrow, columns = pyarrow(), []
        for name in self.columns or ():
            values = table[name].combine_chunks()
            kind, is_list = values.type, arrow.types.is_nested(values.type)
            if is_list and len(self.columns or ()) == 1:
                columns.append(_same_length(values, f"column {name!r} of {self.path}"))
            elif is_list or not _is_number(kind):
                raise ValueError(
                    f"Expected numbers in column {name!r} of {self.path}. Received: {kind}. "
                    "Hint: select the feature columns with columns=(...)."
                )
            else:
                columns.append(values.to_numpy(zero_copy_only=False).astype("float32")[:, None])
        x = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
        return x if self.shape is None else x.reshape(len(x), *self.shape)

    def _labels(self, table: Any) -> np.ndarray:
        if self.label is None:
            return np.zeros(0, "int64")
        values = table[self.label]
        if not pyarrow().types.is_integer(values.type) or values.null_count:
            raise ValueError(
                f"Expected an integer in every row of column {self.label!r} of {self.path}. "
                f"Received: {values.type}, {values.null_count} missing. "
                "Hint: number the classes from 0."
            )
        return values.to_numpy().astype("int64")

    @functools.cached_property
    def spec(self) -> tuple[tuple[int, ...], str]:
        """Shape of one input, and its dtype."""
        x = self._read(0)[0]
        return x.shape[1:], str(x.dtype)

    def fingerprint(self) -> str:
        """Return a digest of the settings and file footers, which contain sizes and statistics."""
        found = hashlib.sha256(repr([self.columns, self.label, self.shape]).encode())
        for file in self._files:
            found.update(repr(file.metadata.to_dict()).encode())
        return found.hexdigest()[:16]


def _is_number(kind: Any) -> bool:
    types = pyarrow().types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _same_length(values: Any, where: str) -> np.ndarray:
    """Return a column of lists of equal length as an array (n, F)."""
    lengths = np.unique(pyarrow().compute.list_value_length(values).fill_null(-1).to_numpy())
    kind = getattr(values.type, "value_type", None)
    if len(lengths) > 1 or lengths.min(initial=0) < 0 or kind is None or not _is_number(kind):
        raise ValueError(
            f"Expected lists of numbers, all of the same length, in {where}. Received: "
            f"{values.type} of lengths {lengths[:5].tolist()} (-1 for a missing list). "
            "Hint: resize images to one size, and store each as a flat list of pixels."
        )
    flat = values.flatten()
    if flat.null_count and not pyarrow().types.is_floating(kind):
        raise ValueError(
            f"Expected a number in each place of the lists in {where}. Received: {values.type} "
            f"with {flat.null_count} missing. Hint: lists of floats, where a missing number is NaN."
        )
    return flat.to_numpy(zero_copy_only=False).reshape(len(values), -1)
