"""A scored pool: a summary of all rows, and selection of rows."""

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.files import write_csv, write_json
from tfp_bayes.scale import choice
from tfp_bayes.scale.choice import Chosen
from tfp_bayes.scale.job import Job
from tfp_bayes.scale.parts import read_columns, read_record
from tfp_bayes.scale.run import is_finished, read_manifest
from tfp_bayes.scale.scoring import checksum
from tfp_bayes.scale.summary import Summary

SUMMARY, TOP = "summary.json", "top.csv"


class ScoredPool:
    """The scores of a pool, in a folder that `score_pool` wrote.

    Use it to choose rows again without scoring again. Each choice reads one column of the parts,
    one part at a time.

    Args:
        folder: The folder `out` of `score_pool`.

    Raises:
        ValueError: If the folder does not contain a finished run.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if not is_finished(self.folder):
            raise ValueError(
                f"Expected a completely scored pool. Received: {folder}, which is not finished. "
                "Hint: start score_pool again with the same arguments."
            )
        self.identity: dict[str, Any] = manifest["identity"]
        self.num_rows: int = manifest["num_rows"]
        self.rows_per_part: int = manifest["rows_per_part"]

    @property
    def summary(self) -> Summary:
        """Counts, means and histograms, and, if the pool has labels, quality of predictions."""
        return Summary.from_json(json.loads((self.folder / SUMMARY).read_text())["summary"])

    @property
    def parts(self) -> list[Path]:
        """Paths of the parts, in the order of the rows."""
        num_parts = -(-self.num_rows // self.rows_per_part)
        job = Job(self.folder, self.num_rows, self.rows_per_part)
        return [job.part(number) for number in range(num_parts)]

    def top(self, size: int, by: str = "score") -> Chosen:
        """Return the rows with the highest scores. Ties go to the first row.

        Args:
            size: Number of rows to choose. If fewer rows have a score that is not NaN, all of
                these are returned.
            by: Column to sort by: "score", or a measure such as "mutual_information".

        Raises:
            ValueError: If there is no such column.
        """
        check_integers(1, size=size)
        return choice.top(self._blocks(by), size)

    def power(self, size: int, beta: float = 1.0, seed: int = 0, by: str = "score") -> Chosen:
        """Draw rows without replacement, with probability proportional to score^beta.

        Use it for batches more diverse than those of `top`. Unlike `batch_bald`, it only reads
        the scores once. The noise of a row depends on seed and row only, so the draw does not
        depend on the parts.

        Args:
            size: Number of rows to draw, see `top`.
            beta: Positive exponent. Near 0 the draw is almost uniform; the larger beta, the more
                it resembles `top`.
            seed: Integer of at least 0.
            by: See `top`.

        Reference:
            Kirsch et al. 2021, "Stochastic Batch Acquisition", section 3, arXiv:2106.12059.
        """
        check_integers(1, size=size)
        check_integers(0, seed=seed)
        check_positive(beta=beta)
        return choice.power(self._blocks(by), size, beta, seed)

    def softmax(self, size: int, beta: float = 1.0, seed: int = 0, by: str = "score") -> Chosen:
        """Draw rows like `power`, but with probability proportional to exp(beta score)."""
        check_integers(1, size=size)
        check_integers(0, seed=seed)
        check_positive(beta=beta)
        return choice.softmax(self._blocks(by), size, beta, seed)

    def read(
        self, rows: Sequence[int] | np.ndarray, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return columns (n, ...) of the given rows, in the given order.

        Args:
            rows: Row numbers (n,), integers in [0, N).
            names: Names of columns. None returns all columns.

        Raises:
            ValueError: If `rows` are not row numbers, or there is no such column.
        """
        rows = check_row_numbers(rows, self.num_rows, "rows")
        numbers, paths = rows // self.rows_per_part, self.parts
        wanted = np.unique(numbers).tolist() or [0]
        found, places = [], []
        for number in wanted:
            at = np.flatnonzero(numbers == number)
            columns = read_columns(paths[number], names)
            inside = rows[at] - number * self.rows_per_part
            found.append({name: values[inside] for name, values in columns.items()})
            places.append(at)
        order = np.argsort(np.concatenate(places), kind="stable")
        return {name: np.concatenate([each[name] for each in found])[order] for name in found[0]}

    def verify(self) -> None:
        """Check the values of every part against its checksum.

        Raises:
            ValueError: If a part is damaged. The error names it.
        """
        for path in self.parts:
            if checksum(read_columns(path)) != read_record(path)["checksum"]:
                raise ValueError(
                    f"Expected {path} as it was written. Received: other values. "
                    "Hint: remove the file and start score_pool again, which makes the part again."
                )

    def _blocks(self, by: str) -> Iterator[choice.Block]:
        for number, path in enumerate(self.parts):
            columns = read_columns(path, [by])
            if columns.get(by, np.empty((0, 0))).ndim != 1:
                raise ValueError(
                    f"Expected a column of numbers for `by`. Received: by={by!r}. "
                    "Hint: use 'score', 'mutual_information' or 'predictive_entropy'."
                )
            first = number * self.rows_per_part
            yield np.arange(first, first + len(columns[by])), columns[by]


def check_row_numbers(rows: Any, num_rows: int, name: str) -> np.ndarray:
    """Return row numbers (n,) as int64, after a check that they are integers in [0, N).

    Args:
        rows: Row numbers.
        num_rows: Number of rows N in the pool.
        name: Name of the argument, for the error.
    """
    given = np.asarray(rows)
    valid = given.ndim == 1 and (given.dtype.kind in "iu" or not given.size)
    if not valid or (given.size and not 0 <= given.min() <= given.max() < num_rows):
        values = f", from {given.min()} to {given.max()}" if valid else ""
        raise ValueError(
            f"Expected row numbers in [0, {num_rows}) for `{name}`. Received: {given.dtype} of "
            f"shape {given.shape}{values}. Hint: np.flatnonzero(mask) turns a mask into row "
            "numbers, which are those of the row source."
        )
    return given.astype("int64")


def merge(job: Job) -> dict:
    """Write the summary of all parts of a job, and return the record for `_SUCCESS`.

    Raises:
        ValueError: If a part is damaged or belongs to another job.
    """
    summary, checksums, machines = Summary(), [], set()
    for number in range(job.num_parts):
        record = read_record(job.part(number))
        start, stop = job.bounds(number)
        if (record["job"], record["first_row"], record["num_rows"]) != (
            job.key,
            start,
            stop - start,
        ):
            raise ValueError(
                f"Expected part {number} of the job in {job.folder}. Received: "
                f"{job.part(number)}, a part of another job. Hint: remove it and start again."
            )
        summary += Summary.from_json(record["summary"])
        checksums.append(record["checksum"])
        machines.add(record["cpu"])
    if len(machines) > 1:
        warnings.warn(
            f"Parts were made on {len(machines)} types of processors, which may round differently. "
            "A part that is made again on another type may differ in the last digit.",
            stacklevel=4,
        )
    means = {name: summary.mean(name) for name in summary.sums}
    shown: dict[str, Any] = {"num_rows": summary.num_rows, "num_non_finite": summary.num_non_finite}
    quality = {"nll": summary.nll, "accuracy": summary.accuracy,
               "expected_calibration_error": summary.expected_calibration_error}  # fmt: skip
    shown["means"] = {k: v for k, v in means.items() if np.isfinite(v)}
    shown["quality"] = {k: v for k, v in quality.items() if np.isfinite(v)}
    write_json(job.folder / SUMMARY, {**shown, "summary": summary.as_json()})
    return {"num_rows": summary.num_rows, "checksums": checksums}


def write_top(pool: ScoredPool, rows: Any, size: int) -> Path:
    """Write a table of the highest scores, with all measures and the names of the rows."""
    path = pool.folder / TOP
    if path.exists():
        known, (_, *lines) = pool.summary, path.read_text().splitlines()
        if len(lines) == min(size, known.num_rows - known.num_non_finite):
            return path  # this job wrote it, with the same number of rows
    chosen = pool.top(size)
    columns = pool.read(chosen.rows)
    names = [name for name, values in columns.items() if values.ndim == 1 and name != "row"]
    write_csv(
        path,
        ["row", "name", *names],
        zip(
            chosen.rows.tolist(),
            rows.names(chosen.rows),
            *(columns[name].tolist() for name in names),
        ),
    )
    return path
