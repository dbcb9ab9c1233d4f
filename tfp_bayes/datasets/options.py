"""Options of `datasets.load` for data from files."""

from dataclasses import dataclass
from pathlib import Path

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
