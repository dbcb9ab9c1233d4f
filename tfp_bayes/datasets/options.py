"""Options of `datasets.load` for data from files."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

TASKS = ("classification", "regression")


@dataclass(frozen=True)
class FileOptions:
    """Arguments of `datasets.load` that apply to files. See `datasets.load`."""

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    labels: str | Path | bool | None = None
    target: str | None = None
    task: str | None = None
    group: str | None = None
    skip_bad: bool = False
    lazy: bool | None = None

    def __post_init__(self):
        if self.image_size is not None and not _is_size(self.image_size):
            raise ValueError(
                f"Expected (H, W) for `image_size`. Received: image_size={self.image_size!r}. "
                "Hint: image_size=(64, 64)."
            )
        if self.task not in (None, *TASKS):
            raise ValueError(
                f"Expected one of {TASKS} for `task`. Received: task={self.task!r}. "
                "Hint: it tells whether the target of a table is a class or a number."
            )

    def refuse(self, what: str, *names: str) -> None:
        """Raises ValueError if an option was given that does not apply to the kind of data."""
        given = [name for name in names if getattr(self, name) not in (None, False)]
        if given:
            raise ValueError(
                f"Expected no {', '.join(f'`{name}`' for name in given)} with {what}. Received: "
                f"{', '.join(f'{name}={getattr(self, name)!r}' for name in given)}. "
                "Hint: leave it out."
            )


def _is_size(size: Any) -> bool:
    is_pair = isinstance(size, Sequence) and len(size) == 2
    return is_pair and all(isinstance(each, Integral) and int(each) > 0 for each in size)
