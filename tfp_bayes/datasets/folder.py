"""Images in a folder, with one subfolder per class, a CSV file with labels, or no labels."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes.datasets.assemble import dataset, divide, number_classes
from tfp_bayes.datasets.csv_table import (
    MISSING,
    SPLIT_WORDS,
    column,
    read_columns,
    read_splits,
)
from tfp_bayes.datasets.dataset import Dataset
from tfp_bayes.datasets.image_files import (
    NAMED,
    SUFFIXES,
    ImageFiles,
    ImageHeader,
    UnreadableImageError,
    decode,
    one_shape,
    read_header,
    relative,
)
from tfp_bayes.datasets.options import FileOptions

IN_MEMORY = 2**31  # bytes of pixels; larger data are read from their files on demand
LABEL_COLUMNS = ("label", "class", "target", "category", "diagnosis")
_NO_LABEL = MISSING - {"none"}  # "none" may be a class, such as that of parts without a defect
# Files that may lie beside images and are ignored.
_IGNORED = frozenset(
    [
        ".csv",
        ".html",
        ".ini",
        ".json",
        ".db",
        ".md",
        ".pdf",
        ".py",
        ".tsv",
        ".txt",
        ".xml",
        ".yaml",
        ".yml",
    ]
)


@dataclass
class Found:
    """The images of a folder with their labels, splits and groups; `skipped` lists other files."""

    folder: Path
    paths: list[Path]
    labels: list[str] | None = None
    splits: list[str] | None = None
    groups: list[str] | None = None
    skipped: list[str] = field(default_factory=list)

    def keep(self, places: Sequence[int]) -> None:
        """Keeps only the images at the given places."""
        for name in ("paths", "labels", "splits", "groups"):
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, [values[i] for i in places])


def load_folder(folder: Path, options: FileOptions) -> Dataset:
    """Loads a folder of images. See `datasets.load`."""
    options.refuse("a folder of images", "task")
    found = find(folder, options)
    images = open_images(found, options)
    warn_of_skipped(found.skipped, folder)
    if found.labels is None:
        options.refuse("images without labels", "group", "target")
        none = images[:0]
        return Dataset(
            in_memory(images, options.lazy),
            np.zeros(0, "int64"),
            none,
            np.zeros(0, "int64"),
            (),
            sources={"train": images.names},
            skipped=tuple(found.skipped),
        )
    y, class_names = number_classes(found.labels)
    if len(class_names) < 2:
        raise ValueError(
            f"Expected at least two classes in {folder}. Received: {list(class_names)}. "
            "Hint: labels=False reads the images of one or many folders as a pool without labels."
        )
    rows = divide(y, found.splits, found.groups, classes=True)
    skipped = tuple(found.skipped)
    x = in_memory(images, options.lazy)
    return dataset(x, y, rows, images.names, class_names, skipped=skipped)


def find(folder: Path, options: FileOptions) -> Found:
    """Lists the images of a folder in a fixed order, with their labels, splits and groups."""
    paths, others = list_files(folder)
    found = Found(folder, paths)
    leave_out(found, [f"{name}: not an image" for name in others], options.skip_bad)
    if not paths:
        raise ValueError(
            f"Expected images in {folder}. Received: none. Hint: put files ending in "
            f"{', '.join(sorted(SUFFIXES))} in the folder itself or in one folder per class."
        )
    table = None if options.labels is False else _table_of(folder, options.labels)
    if table is not None:
        _label_by_table(found, table, options)
    elif options.labels is not False and any(path.parent != folder for path in paths):
        options.refuse("one folder per class", "group", "target")
        _label_by_folder(found)
    return found


def list_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Returns the sorted paths of images under a folder, and the names of other files."""
    paths, others = [], []
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:  # a symbolic link to a folder that was visited
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in files:
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() in _IGNORED or not path.suffix:
                continue
            if path.suffix.lower() in SUFFIXES:
                paths.append(path)
            else:
                others.append(relative(path, folder))
    return sorted(paths, key=lambda path: relative(path, folder)), sorted(others)


def open_images(found: Found, options: FileOptions) -> ImageFiles:
    """Reads the header of every image and returns all images in one shape."""
    headers = read_headers(found, options)
    names = [relative(path, found.folder) for path in found.paths]
    shape = one_shape(headers, names, options.image_size, options.channels)
    return ImageFiles(found.paths, shape, found.folder)


def read_headers(found: Found, options: FileOptions) -> list[ImageHeader]:
    """Returns the header of each image.

    With `skip_bad`, every image is also decoded, because a header does not show whether the rest of
    the file is damaged. Images that cannot be read are removed from `found`.
    """
    headers, bad, good = [], [], []
    for place, path in enumerate(found.paths):
        try:
            header = read_header(path)
            if options.skip_bad:
                size = options.image_size or (header.height, header.width)
                decode(path, size, options.channels or header.channels)
        except UnreadableImageError as error:
            reason = str(error).partition("Received: ")[2].partition(". Hint:")[0] or error
            bad.append(f"{relative(path, found.folder)}: {reason}")
        else:
            headers.append(header)
            good.append(place)
    leave_out(found, bad, options.skip_bad)
    found.keep(good)
    if not good:
        raise ValueError(
            f"Expected images that can be read in {found.folder}. Received: none. "
            "Hint: check the files that were left out."
        )
    return headers


def leave_out(found: Found, bad: list[str], skip_bad: bool) -> None:
    """Records the files that are left out, or raises a ValueError that lists them."""
    leave_out_rows(bad, found.folder, skip_bad)
    found.skipped += bad


def leave_out_rows(bad: list[str], where: Path, skip_bad: bool) -> None:
    """Raises a ValueError that lists unusable files or rows, unless `skip_bad` is set."""
    if bad and not skip_bad:
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise ValueError(
            f"Expected only readable and complete entries in {where}. "
            f"Received: {'; '.join(bad[:NAMED])}{more}. "
            "Hint: correct them, or leave them out with skip_bad=True (--skip-bad)."
        )


def warn_of_skipped(skipped: list[str], where: Path) -> None:
    """Warns of the number of files or rows that were left out, and lists the first ones."""
    if skipped:
        more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        warnings.warn(
            f"Left out {len(skipped)} of {where}: {'; '.join(skipped[:NAMED])}{more}.",
            stacklevel=5,
        )


def in_memory(images: ImageFiles, lazy: bool | None = None) -> Any:
    """Reads images into memory if `lazy` is False, or is None and they fit in `IN_MEMORY` bytes."""
    lazy = int(np.prod(images.shape, dtype="int64")) > IN_MEMORY if lazy is None else lazy
    return images if lazy else images[:]


def _label_by_folder(found: Found) -> None:
    """Uses the first folder of each path as its class, below "train" and "test" if they exist."""
    parts = [path.relative_to(found.folder).parts for path in found.paths]
    first = {each[0] for each in parts if len(each) > 1}
    depth = 0
    if {SPLIT_WORDS.get(name.lower()) for name in first} >= {"train"} and all(
        name.lower() in SPLIT_WORDS for name in first
    ):
        depth = 1
        found.splits = [SPLIT_WORDS.get(each[0].lower(), "") for each in parts]
    else:
        _refuse_splits_as_classes(found.folder, parts)
    loose = ["/".join(each) for each in parts if len(each) < depth + 2]
    if loose:
        raise ValueError(
            f"Expected every image of {found.folder} in the folder of its class. Received: "
            f"{', '.join(loose[:NAMED])} ({len(loose)}) beside folders. Hint: move them, or pass "
            "labels=False to read all images as a pool without labels."
        )
    found.labels = [each[depth] for each in parts]
    roots = [found.folder / name for name in first] if depth else [found.folder]
    empty = [
        relative(path, found.folder)
        for root in roots
        for path in sorted(root.iterdir())
        if path.is_dir() and not path.name.startswith((".", "__"))
        and path.name not in found.labels
    ]  # fmt: skip
    if empty:
        raise ValueError(
            f"Expected images in the folder of each class. Received: none in {empty}. "
            "Hint: remove these folders, or put images in them."
        )


def _refuse_splits_as_classes(folder: Path, parts: Sequence[tuple[str, ...]]) -> None:
    """Raise ValueError for folders of sets beside others, which would be taken for classes.

    A class may have the name of a set, such as a train, but it then has no folders of classes.
    """
    places = {each[0] for each in parts if len(each) > 2}
    sets = sorted(
        name for name in places if SPLIT_WORDS.keys() & set(re.split(r"[\W_]+", name.lower()))
    )
    if sets:
        first = sorted({each[0] for each in parts if len(each) > 1})
        raise ValueError(
            f"Expected one folder per class in {folder}, or only folders named train, validation "
            f"and test with the folders of classes. Received: {first}, of which {sets} seem to be "
            "sets rather than classes. Hint: rename them, and move the others elsewhere; "
            "labels=False reads all images as a pool without labels."
        )


def _table_of(folder: Path, labels: str | Path | bool | None) -> Path | None:
    if isinstance(labels, str | Path):
        path = Path(labels).expanduser()
        path = path if path.is_file() else folder / path
        if not path.is_file():
            raise ValueError(
                f"Expected a CSV file for `labels`. Received: labels={str(labels)!r}. "
                "Hint: pass a path, or the name of a file in the folder."
            )
        return path
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".tsv"))
    if len(tables) > 1:
        raise ValueError(
            f"Expected one CSV file in {folder}. Received: {[path.name for path in tables]}. "
            "Hint: pass the one with the labels as labels=...; labels=False uses none."
        )
    return tables[0] if tables else None


def _label_by_table(found: Found, path: Path, options: FileOptions) -> None:
    table = read_columns(path)
    names = [relative(each, found.folder) for each in found.paths]
    places = {name: place for place, name in enumerate(names)}
    short = Counter(name.rpartition(".")[0] for name in names)
    places |= {
        name.rpartition(".")[0]: place
        for place, name in enumerate(names)
        if short[name.rpartition(".")[0]] == 1
    }
    cells = {key: [cell.replace("\\", "/").removeprefix("./") for cell in values]
             for key, values in table.items()}  # fmt: skip
    file = max(cells, key=lambda key: sum(cell in places for cell in cells[key]))
    if not any(cell in places for cell in cells[file]):
        raise ValueError(
            f"Expected a column of {path} with the names of files in {found.folder}. Received: "
            f"columns {list(table)}, none of which contains {names[0]}. "
            "Hint: use paths relative to the folder, with or without their endings."
        )
    given = _label_column(table, file, path, options)
    labels = ["" if label.lower() in _NO_LABEL else label for label in given]
    splits = read_splits(table["split"], path) if "split" in table else None
    groups = None if options.group is None else column(table, options.group, "group", path)
    rows: dict[int, int] = {}
    bad = []
    for row, cell in enumerate(cells[file]):
        if cell not in places:
            bad.append(f"{cell or 'a row without a file'}: in {path.name}, but no such image")
        elif places[cell] in rows:
            raise ValueError(
                f"Expected one row per file in {path}. Received: {cell!r} twice. "
                "Hint: remove one; a file has one label."
            )
        else:
            rows[places[cell]] = row
    bad += [f"{names[i]}: no row in {path.name}" for i in range(len(names)) if i not in rows]
    bad += [f"{names[i]}: no label in {path.name}" for i, row in rows.items() if not labels[row]]
    leave_out(found, bad, options.skip_bad)
    kept = sorted(i for i, row in rows.items() if labels[row])
    found.keep(kept)
    found.labels = [labels[rows[i]] for i in kept]
    found.splits = None if splits is None else [splits[rows[i]] for i in kept]
    found.groups = None if groups is None else [groups[rows[i]] for i in kept]


def _label_column(
    table: dict[str, list[str]], file: str, path: Path, options: FileOptions
) -> list[str]:
    if options.target is not None:
        return column(table, options.target, "target", path)
    others = [name for name in table if name not in (file, "split", options.group)]
    known = [name for name in others if name.lower() in LABEL_COLUMNS]
    chosen = known if len(known) == 1 else others
    if len(chosen) != 1:
        raise ValueError(
            f"Expected the name of the column with labels in {path} for `target`. Received: "
            f'target=None. Hint: one of {others}, such as target="{(others or ["label"])[0]}".'
        )
    return table[chosen[0]]
