"""Files that are either the old ones or the new ones, never half of each."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np


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


def save(path: Path, arrays: dict[str, np.ndarray], record: dict) -> None:
    """Saves arrays and a JSON record in one file, atomically."""
    encoded = np.frombuffer(json.dumps(record).encode(), dtype="uint8")
    write_atomically(path, lambda file: np.savez(file, record=encoded, **arrays))


def load(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Loads what `save` wrote.

    Raises:
        ValueError: If the file is not a checkpoint.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return arrays, json.loads(arrays.pop("record").tobytes())
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"Expected a learner's checkpoint at {path}. Received: {error}. "
            "Hint: start again in another folder."
        ) from error
