"""The state of a run in one file."""

import json
from pathlib import Path

import numpy as np

from tfp_bayes._plumbing.files import write_atomically


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


def check_same_configuration(new: dict, old: dict, where: Path) -> None:
    """Raises ValueError, naming what differs, unless a run is continued as it was started.

    Args:
        new: Configuration of the run that continues.
        old: That of the run in `where`.
        where: Its file or folder.
    """
    different = [f"{k}={v!r} (was {old.get(k)!r})" for k, v in new.items() if old.get(k) != v]
    if different:
        raise ValueError(
            f"Expected the configuration of the run in {where}. Received: {', '.join(different)}. "
            "Hint: repeat the arguments of that run, or use another folder."
        )
