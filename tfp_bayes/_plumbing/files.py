"""Files that are either the old ones or the new ones, never half of each."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from matplotlib.figure import Figure


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Calls `write` on a temporary file beside `path`, then renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, record) -> None:
    """Writes JSON for people to read; NaN, for which JSON has no word, is refused."""
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, fields: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a table with its header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_png(path: Path, figure: Figure) -> None:
    """Writes a figure as a picture."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
