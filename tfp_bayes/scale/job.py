"""Jobs that process the rows of a pool in parts. Job and part number determine a part's file.

So any process on any machine may make a part, even twice, and make it again after a crash. A part
is complete once its file exists, because files are written atomically.
"""

import functools
import hashlib
import platform
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_atomically, write_json
from tfp_bayes._plumbing.workers import TRIES
from tfp_bayes.scale.rows import RowSource

Make = Callable[[int, int], bytes]  # (first row, last row + 1) -> content of a part's file


@dataclass(frozen=True)
class Job:
    """Base class of a job on the rows 0 to N - 1 of a pool. Subclasses define the task.

    Jobs are sent to workers, so they are small and can be pickled. Jobs with equal fields are
    equal.

    Attributes:
        folder: Folder of the job's files, which all workers can reach.
        num_rows: Number of rows N.
        rows_per_part: Number of rows in each part except the last.
    """

    folder: Path
    num_rows: int
    rows_per_part: int

    ending = ".parquet"

    def identity(self) -> dict:
        """Return named plain JSON values that identify this job."""
        raise NotImplementedError

    def open(self) -> Make:
        """Load the resources that all parts need, and return the function that makes a part.

        An error here ends the run, because no part can be made.
        """
        raise NotImplementedError

    @functools.cached_property
    def key(self) -> str:
        """Digest of the identity. Each part contains it."""
        return digest(self.identity())

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return -(-self.num_rows // self.rows_per_part)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the first row of a part, and its last row + 1."""
        start = number * self.rows_per_part
        return start, min(start + self.rows_per_part, self.num_rows)

    def part(self, number: int) -> Path:
        """Return the path of a part's file."""
        return self.folder / "parts" / f"part-{number:06d}{self.ending}"

    def failure(self, number: int) -> Path:
        """Return the path of the file that records why a part failed."""
        return self.folder / "failed" / f"part-{number:06d}.json"


def complete(job: Job, number: int) -> None:
    """Make a part unless it exists. If three attempts fail, write the reason to a file.

    Args:
        job: Job that the part belongs to.
        number: Number of the part.

    Raises:
        Exception: If the job cannot be opened.
        OSError: If a file cannot be written, for example because the disk is full.
    """
    path = job.part(number)
    if path.exists():
        return
    make = job.open()
    start, stop = job.bounds(number)
    for attempt in range(TRIES):
        try:
            content = make(start, stop)
            break
        except Exception as error:
            if attempt + 1 == TRIES:
                write_json(job.failure(number), _describe(error, number, start, stop))
                return
    write_atomically(path, lambda file: file.write(content))


def record_death(job: Job, number: int, reason: str) -> None:
    """Write to a file that the workers of a part died."""
    error = f"its worker died {TRIES} times ({reason})"
    write_json(job.failure(number), {"part": number, "error": error})


def _describe(error: Exception, number: int, start: int, stop: int) -> dict:
    return {
        "part": number,
        "first_row": start,
        "last_row": stop - 1,
        "error": f"{type(error).__name__}: {error}",
        "machine": platform.node(),
        "traceback": traceback.format_exception(error),
    }


def file_digest(*paths: Path) -> str:
    """Return the SHA-256 of files. For a folder, it covers all files inside, with their names."""
    found = hashlib.sha256()
    for path in paths:
        files = (
            sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        )
        for each in files:
            found.update(f"{each.relative_to(path).as_posix()}\0{each.stat().st_size}\0".encode())
            with each.open("rb") as file:
                while block := file.read(2**20):
                    found.update(block)
    return found.hexdigest()


def check_apart(folder: Path, files: Sequence[Path], rows: RowSource) -> None:
    """Raise ValueError if the output folder is inside a folder that the run reads."""
    own = (getattr(rows, name, None) for name in ("path", "folder"))
    for place in (*files, *(Path(each) for each in own if each is not None)):
        if place.is_dir() and folder.is_relative_to(place):
            raise ValueError(
                f"Expected a separate folder for `out`. Received: out={str(folder)!r}, inside "
                f"{place}, which the run reads. Hint: choose a folder next to it."
            )


def check_rows(rows: RowSource, fingerprint: str) -> None:
    """Raise ValueError if the rows have changed since the run began."""
    if rows.fingerprint() != fingerprint:
        raise ValueError(
            f"Expected the same rows as when the run began. Received: {rows!r}, which has changed. "
            "Hint: add rows only between runs, and use another folder for the new run."
        )
