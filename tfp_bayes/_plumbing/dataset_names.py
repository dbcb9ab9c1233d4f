"""Checks of data set names, which find misspelled ones without importing TensorFlow."""

import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path

_OWN = ("mnist", "repeated_mnist", "blood_cells")
_ENDINGS = (".csv", ".npz", ".parquet", ".tsv")
_COMMON = ("fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn_cropped")


def check_dataset_name(name: str, data_dir: str | Path | None = None) -> None:
    """Raise ValueError if no data set has this name.

    The names in TensorFlow Datasets are those of classes and folders in its source code. Reading
    them takes half a second; importing TensorFlow Datasets takes ten.

    Args:
        name: Name, see `datasets.load`. A variant and a version may follow it, and a namespace
            may precede it.
        data_dir: Folder of prepared data sets, whose names are also accepted.

    Raises:
        ValueError: If the name is neither in `data_dir` nor in the source code.
    """
    if (path := as_path(name)) is not None:
        if not path.exists():
            raise ValueError(
                f"Expected an existing folder or file for `name`. Received: name={name!r}. "
                "Hint: paths are relative to the current folder."
            )
        return
    base = re.split(r"[/:]", name)[0].lower()
    has_namespace = re.match(r"\w+:[a-zA-Z]", name)
    if base in _OWN + _COMMON or has_namespace:
        return
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if base and (Path(folder).expanduser() / base).is_dir():
        return
    known = _names_in_sources()
    if base.replace("_", "") not in {each.replace("_", "") for each in known}:
        raise unknown_name(name, known)


def as_path(name: str) -> Path | None:
    """Return the path of the user's own data if the string is a path, None if it is a name.

    A string is a path if it has the extension of a data file, begins with "/", "." or "~", or
    ends in "/". Any other string is a path only if it exists and is not a name in TensorFlow
    Datasets, because those may contain "/" too ("glue/cola").
    """
    path = Path(name).expanduser()
    if name.startswith((".", "~", "/")) or name.endswith(("/", os.sep)) or path.is_absolute():
        return path
    if path.suffix.lower() in _ENDINGS:
        return path
    base = re.split(r"[/:]", name)[0].lower()
    if not name or base in _OWN + _COMMON or not path.exists():
        return None
    return None if base in _names_in_sources() else path


def unknown_name(name: str, known: Iterable[str]) -> ValueError:
    """Return the error for an unknown name, with the known names closest to it."""
    close = difflib.get_close_matches(name, [*_OWN, *_COMMON, *known]) or ["mnist", *_COMMON[:3]]
    return ValueError(
        "Expected 'mnist' or a data set of TensorFlow Datasets for `name`. "
        f"Received: name={name!r}. Hint: did you mean one of {list(dict.fromkeys(close))}?"
    )


@functools.cache
def _names_in_sources() -> set[str]:
    """Return the names of classes and folders of TensorFlow Datasets, data sets and others."""
    package = importlib.util.find_spec("tensorflow_datasets")
    names: set[str] = set()
    for root in map(Path, (package and package.submodule_search_locations) or ()):
        for path in root.rglob("*.py"):
            if "core" not in path.relative_to(root).parts:
                text = path.read_text(encoding="utf-8", errors="replace")
                names.update(map(_snake_case, re.findall(r"^class (\w+)\(", text, re.MULTILINE)))
        names.update(path.name for path in root.glob("datasets/*"))
    return names


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
