"""The state of a run in one file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_atomically

FORMAT = 2  # 1 had neither a checksum nor a journal beside it


class State(NamedTuple):
    """All that decides how a run goes on: arrays, and a record of plain JSON."""

    arrays: dict[str, np.ndarray]
    record: dict


class DamagedError(ValueError):
    """A file is no checkpoint, or only part of one."""


def save(path: Path, state: State) -> None:
    """Saves a state in one file, atomically."""
    record = {"format": FORMAT, **state.record}
    content: dict[str, Any] = {name: np.asarray(value) for name, value in state.arrays.items()}
    content["record"] = np.frombuffer(json.dumps(record).encode(), dtype="uint8")
    check = np.array(digest(content))
    write_atomically(path, lambda file: np.savez(file, check=check, **content))


def load(path: Path) -> State:
    """Loads what `save` wrote.

    Raises:
        DamagedError: If the file is not what `save` wrote, to the last bit.
        ValueError: If the file is an earlier release's.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = dict(file)
        check = content.pop("check", None)
        record = json.loads(content["record"].tobytes())
        if "format" in record and str(check) != digest(content):
            raise ValueError("its checksum is another")
        del content["record"]
    except Exception as error:  # a flipped bit can make a reader fail in any way
        raise DamagedError(
            f"Expected a checkpoint at {path}. "
            f"Received: {type(error).__name__}: {error}. Hint: start again in another folder."
        ) from error
    if record.get("format") != FORMAT:
        raise ValueError(
            f"Expected a checkpoint of format {FORMAT} at {path}. Received: format "
            f"{record.get('format', '1 (before the journal of answers)')}. "
            "Hint: continue this run with the version of tfp_bayes that started it."
        )
    return State(content, record)


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
