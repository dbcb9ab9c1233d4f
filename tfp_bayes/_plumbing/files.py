"""Atomic writing of files: a reader sees the old file or the new one, never a partial one."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PREFIX = ".unfinished-"


def check_folder(out: Path) -> None:
    """Raise ValueError if the folder of `--out` cannot be made because a file has its name."""
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(
                f"Expected a folder for --out. Received: --out={out}, where {path} is a file. "
                "Hint: choose another name."
            )


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` with an open temporary file next to `path`, then rename the file to `path`."""

    def write_file(temporary: Path) -> None:
        with temporary.open("wb") as file:
            write(file)

    write_path_atomically(path, write_file)


def write_path_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path of the same extension, then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_PREFIX}{os.getpid()}-{path.name}")
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for path in folder.glob(f"{_PREFIX}*"):
        process = path.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the names of new files to disk, if the operating system supports it."""
    if os.name == "posix":
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # `os.kill` would end the process there, so the file stays
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, record) -> None:
    """Write indented JSON. Raise ValueError for NaN, which JSON cannot represent."""
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def number_or_none(value: float | None) -> float | None:
    """Return a number for JSON, which has no NaN and no infinity: None for these and for None."""
    return float(value) if value is not None and math.isfinite(value) else None


def write_csv(path: Path, fields: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table with a header row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_png(path: Path, figure: "Figure") -> None:
    """Write a figure as a PNG image."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
