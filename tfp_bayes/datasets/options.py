"""Options of data from files, as `datasets.load` takes them."""

from dataclasses import dataclass
from pathlib import Path

TASKS = ("classification", "regression")


@dataclass(frozen=True)
class FileOptions:
    """What the caller of `datasets.load` said about files; see there."""

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
                "Hint: what the target of a table is."
            )

    def refuse(self, what: str, *names: str) -> None:
        """Raises ValueError if an option was given that has no meaning for some data."""
        given = [name for name in names if getattr(self, name) not in (None, False)]
        if given:
            raise ValueError(
                f"Expected no {', '.join(f'`{name}`' for name in given)} with {what}. Received: "
                f"{', '.join(f'{name}={getattr(self, name)!r}' for name in given)}. "
                "Hint: leave it out."
            )
