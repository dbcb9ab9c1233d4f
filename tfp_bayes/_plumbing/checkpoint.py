"""A checkpoint: the state of a run in one file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_atomically

FORMAT = 2  # format 1 had no checksum and no journal


class State(NamedTuple):
    """Everything that determines how a run continues: arrays and a plain JSON record."""

    arrays: dict[str, np.ndarray]
    record: dict


class DamagedError(ValueError):
    """Raised for a file that is not a checkpoint, or is damaged or incomplete."""


def save(path: Path, state: State) -> None:
    """Save a state to one file, atomically."""
    record = {"format": FORMAT, **state.record}
    content: dict[str, Any] = {name: np.asarray(value) for name, value in state.arrays.items()}
    content["record"] = np.frombuffer(json.dumps(record).encode(), dtype="uint8")
    check = np.array(digest(content))
    write_atomically(path, lambda file: np.savez(file, check=check, **content))


def load(path: Path) -> State:
    """Load a state that `save` wrote.

    Raises:
        DamagedError: If the content differs from what `save` wrote.
        ValueError: If an earlier release wrote the file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = dict(file)
        check = content.pop("check", None)
        record = json.loads(content["record"].tobytes())
        if "format" in record and str(check) != digest(content):
            raise ValueError("its checksum does not match")
        del content["record"]
    except Exception as error:  # a flipped bit can make the reader fail in any way
        raise DamagedError(
            f"Expected a checkpoint at {path}. "
            f"Received: {type(error).__name__}: {error}. Hint: start over in another folder."
        ) from error
    if record.get("format") != FORMAT:
        raise ValueError(
            f"Expected a checkpoint of format {FORMAT} at {path}. Received: format "
            f"{record.get('format', '1 (before the journal of answers)')}. "
            "Hint: continue this run with the version of tfp_bayes that started it."
        )
    return State(content, record)


def check_same_configuration(new: dict, old: dict, where: Path) -> None:
    """Raise ValueError, naming the differences, unless the configurations are equal.

    Args:
        new: Configuration of the current run.
        old: Configuration of the saved run that it continues.
        where: File or folder of the saved run.
    """
    different = [f"{k}={v!r} (was {old.get(k)!r})" for k, v in new.items() if old.get(k) != v]
    if different:
        raise ValueError(
            f"Expected the configuration of the run in {where}. Received: {', '.join(different)}. "
            "Hint: repeat the arguments of that run, or use another folder."
        )
