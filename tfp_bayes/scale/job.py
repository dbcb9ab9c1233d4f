"""Work on all rows of a pool in parts, each a file that follows from job and number alone.

So a part may be made twice, by any process on any machine, and made again after a crash: what
counts is that its file is there, whole, under its name.
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
from tfp_bayes.scale.rows import RowSource

TRIES = 3  # before a part is set aside

Make = Callable[[int, int], bytes]  # from the first row and the one after the last to a file


@dataclass(frozen=True)
class Job:
    """Work on rows 0 to N - 1; subclasses say what.

    Jobs travel to workers, so they are small, can be pickled, and are equal if they mean the same.

    Attributes:
        folder: Where its files are, of all workers.
        num_rows: N.
        rows_per_part: Rows of each part but the last.
    """

    folder: Path
    num_rows: int
    rows_per_part: int

    ending = ".parquet"

    def identity(self) -> dict:
        """Returns what tells this job from another, by name, plain JSON."""
        raise NotImplementedError

    def open(self, threads: int | None) -> Make:
        """Loads what all parts need, once in a process, and returns what makes a part.

        An error here ends the run, as no part could be made.

        Args:
            threads: Of a worker, that it may use; None leaves that as it is.
        """
        raise NotImplementedError

    @functools.cached_property
    def key(self) -> str:
        """A digest of the identity, which each part carries."""
        return digest(self.identity())

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return -(-self.num_rows // self.rows_per_part)

    def bounds(self, number: int) -> tuple[int, int]:
        """Returns the first row of a part, and the one after its last."""
        start = number * self.rows_per_part
        return start, min(start + self.rows_per_part, self.num_rows)

    def part(self, number: int) -> Path:
        """Returns the file of a part."""
        return self.folder / "parts" / f"part-{number:06d}{self.ending}"

    def failure(self, number: int) -> Path:
        """Returns the file that says why a part was set aside."""
        return self.folder / "failed" / f"part-{number:06d}.json"


def complete(job: Job, number: int, threads: int | None = None) -> None:
    """Makes a part if it is not there; after three tries, writes why it failed.

    Args:
        job: The job.
        number: Of the part.
        threads: See `Job.open`.

    Raises:
        Exception: If the job cannot be opened.
        OSError: If a file cannot be written, such as on a full disk.
    """
    path = job.part(number)
    if path.exists():
        return
    make = job.open(threads)
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
    """Returns the SHA-256 of files, and of all files in folders with their names."""
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
    """Raises ValueError if a run would write among what it reads."""
    own = (getattr(rows, name, None) for name in ("path", "folder"))
    for place in (*files, *(Path(each) for each in own if each is not None)):
        if place.is_dir() and folder.is_relative_to(place):
            raise ValueError(
                f"Expected a folder of its own for `out`. Received: out={str(folder)!r}, inside "
                f"{place}, which is read. Hint: choose one beside it."
            )


def check_rows(rows: RowSource, fingerprint: str) -> None:
    """Raises ValueError if rows are others than when the run began."""
    if rows.fingerprint() != fingerprint:
        raise ValueError(
            f"Expected the rows that were there when the run began. Received: {rows!r}, which has "
            "changed. Hint: add rows between runs, and score them in another folder."
        )
