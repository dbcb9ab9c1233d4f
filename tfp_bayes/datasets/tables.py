"""CSV and Parquet tables with numeric and one-hot encoded features and a target column."""

import math
import re
from pathlib import Path

import numpy as np

from tfp_bayes.datasets.assemble import dataset, divide, number_classes
from tfp_bayes.datasets.csv_table import (
    MISSING,
    check_named,
    column,
    read_columns,
    read_splits,
)
from tfp_bayes.datasets.dataset import Dataset
from tfp_bayes.datasets.folder import leave_out_rows, warn_of_skipped
from tfp_bayes.datasets.options import FileOptions

MAX_CATEGORIES = 50
_COMMAS = re.compile(r"[-+]?\d+([.,]\d+)*,\d+(\.\d+)?")  # "1,5", "1,500" and "1.000,5"
_LARGEST_ERROR = 1e-3  # of rounding to float32, as a share of the range of a column
_NOISE = 1e-12  # a smaller range, as a share of the numbers, comes from rounding to float64


def load_table(path: Path, options: FileOptions) -> Dataset:
    """Loads a table into memory. See `datasets.load`."""
    options.refuse("a table", "image_size", "channels", "labels", "lazy")
    table = read_columns(path) if path.suffix.lower() != ".parquet" else read_parquet(path)
    size = len(next(iter(table.values()), []))
    if options.target is None:
        raise ValueError(
            f"Expected the name of a column of {path} for `target`. Received: target=None. "
            f'Hint: one of {list(table)}, such as target="{list(table)[-1]}".'
        )
    target = column(table, options.target, "target", path)
    groups = None if options.group is None else column(table, options.group, "group", path)
    special = (options.target, "split", options.group)
    features = {name: cells for name, cells in table.items() if name not in special}
    kept, skipped = _complete_rows(features, options.target, target, path, options.skip_bad)
    warn_of_skipped(skipped, path)
    if not kept or not features:
        raise ValueError(
            f"Expected rows and columns of features in {path}. Received: {len(kept)} complete "
            f"rows of {size}, columns {list(features)}. Hint: the target is not a feature."
        )
    x, names = _encode({name: [cells[i] for i in kept] for name, cells in features.items()}, path)
    target = [target[i] for i in kept]
    classes = _is_classification(target, options)
    if classes:
        y, class_names = number_classes(target)
    else:
        y, class_names = _numbers(target, options.target, path), ()
    splits = read_splits([table["split"][i] for i in kept], path) if "split" in table else None
    groups = None if groups is None else [groups[i] for i in kept]
    rows = divide(y, splits, groups, classes)
    lines = np.array([f"row {i + 1}" for i in kept])
    further = {"skipped": tuple(skipped), "feature_names": names}
    return dataset(x, y, rows, lines, class_names, **further)


def read_parquet(path: Path) -> dict[str, list[str]]:
    """Returns the columns of a Parquet file as text, like those of a CSV file.

    Raises:
        ImportError: If PyArrow is missing.
        ValueError: If the file is damaged, or a column has lists or other nested values.
    """
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError as error:
        raise ImportError(
            f"Expected PyArrow to read {path}. Received: {error}. "
            'Hint: pip install "tfp_bayes[parquet]".'
        ) from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise ValueError(
            f"Expected a Parquet file in {path}. Received: {error}. Hint: write it again."
        ) from None
    for field in table.schema:
        if types.is_nested(field.type):
            raise ValueError(
                f"Expected numbers or text in column {field.name!r} of {path}. "
                f"Received: {field.type}. Hint: use one column per number."
            )
    check_named(table.column_names, path)
    return {
        name: ["" if cell is None else str(cell) for cell in table[name].to_pylist()]
        for name in table.column_names
    }


def _complete_rows(
    features: dict[str, list[str]], name: str, target: list[str], path: Path, skip_bad: bool
) -> tuple[list[int], list[str]]:
    """Returns the rows without missing cells, and a description of each of the others."""
    bad, kept = [], []
    for i in range(len(target)):
        missing = [key for key, cells in features.items() if cells[i].lower() in MISSING]
        missing += [name] * (target[i].lower() in MISSING)
        if missing:
            bad.append(f"row {i + 1}: no value in {', '.join(map(repr, missing))}")
        else:
            kept.append(i)
    leave_out_rows(bad, path, skip_bad)
    return kept, bad


def _encode(features: dict[str, list[str]], path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns features (N, F) float32 and F names: "column" for numbers, "column=category" else."""
    columns, names = [], []
    for name, cells in features.items():
        if all(_is_number(cell) for cell in cells):
            columns.append(_numbers(cells, name, path))
            names.append(name)
            continue
        categories = sorted(set(cells))
        _check_categories(categories, cells, name, path)
        columns += [np.array([cell == each for cell in cells], "float32") for each in categories]
        names += [f"{name}={each}" for each in categories]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"Expected different names of the features of {path}. Received: two of the name "
            f"{twice[0]!r}, a column and a category. Hint: rename the column."
        )
    return np.stack(columns, axis=1), tuple(names)


def _check_categories(categories: list[str], cells: list[str], name: str, path: Path) -> None:
    """Raises ValueError for a column of texts that are names, dates or numbers with a few errors.

    One-hot encoded, these would hide that a column is a number, or tell the rows apart.
    """
    texts = [cell for cell in cells if not _is_number(cell)]
    if all(map(_COMMAS.fullmatch, texts)):
        raise ValueError(
            f"Expected numbers or text in column {name!r} of {path}. Received: {texts[0]!r}. "
            "Hint: write numbers with a decimal point, not a comma, and without separators of "
            "thousands."
        )
    if len(texts) < len(cells) / 2:
        raise ValueError(
            f"Expected numbers in all cells of column {name!r} of {path}. Received: {texts[0]!r}, "
            f"and other texts in {len(texts) - 1} cells, among {len(cells) - len(texts)} numbers. "
            "Hint: correct these cells or empty them; to make all of them categories, write the "
            "numbers with a letter, such as c7."
        )
    if len(categories) > min(MAX_CATEGORIES, max(10, len(cells) / 2)):
        raise ValueError(
            f"Expected numbers, or at most {MAX_CATEGORIES} categories of several rows each, in "
            f"column {name!r} of {path}. Received: {len(categories)} different texts in "
            f"{len(cells)} rows, such as {cells[0]!r}. "
            "Hint: remove columns of names or dates; write numbers with a decimal point."
        )


def _is_classification(target: list[str], options: FileOptions) -> bool:
    if options.task is not None:
        if options.task == "regression" and not all(map(_is_number, target)):
            text = next(cell for cell in target if not _is_number(cell))
            raise ValueError(
                f"Expected numbers in column {options.target!r} for task='regression'. "
                f"Received: {text!r}. Hint: for text use task='classification'."
            )
        return options.task == "classification"
    if not all(map(_is_number, target)):
        commas = list(filter(_COMMAS.fullmatch, target))
        if commas:
            raise ValueError(
                f"Expected numbers or class names in column {options.target!r}. "
                f"Received: {commas[0]!r}. Hint: write numbers with a decimal point, not a comma."
            )
        return True
    if any(not float(cell).is_integer() for cell in target):
        return False
    raise ValueError(
        "Expected 'classification' or 'regression' for `task`, because integers may be either. "
        f"Received: task=None, and integers in column {options.target!r}. "
        "Hint: use 'classification' if they are class numbers."
    )


def _numbers(cells: list[str], name: str, path: Path) -> np.ndarray:
    numbers = np.array(cells, dtype="float64")
    too_large = np.abs(numbers) > np.finfo("float32").max
    if too_large.any():
        raise ValueError(
            f"Expected numbers that float32 can hold in column {name!r} of {path}. Received: "
            f"{cells[int(too_large.argmax())]!r}. Hint: use another unit or the logarithm."
        )
    rounded = numbers.astype("float32")
    error, size = (np.abs(each).max(initial=0) for each in (rounded - numbers, numbers))
    if error > _LARGEST_ERROR * np.ptp(numbers) > _LARGEST_ERROR * _NOISE * size:
        raise ValueError(
            f"Expected numbers whose differences float32 can hold in column {name!r} of {path}. "
            f"Received: numbers from {numbers.min():.15g} to {numbers.max():.15g}, which it rounds "
            f"by up to {error:.3g}. Hint: subtract the smallest, as for times in seconds."
        )
    return rounded


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False
