"""A job in its folder: a manifest first, parts, what failed, and `_SUCCESS` last."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

from tfp_bayes._plumbing.checkpoint import check_same_configuration
from tfp_bayes._plumbing.files import remove_unfinished, write_json
from tfp_bayes._plumbing.lock import Lock
from tfp_bayes.scale.engines import check_engine, run_parts
from tfp_bayes.scale.job import Job

MANIFEST, SUCCESS = "manifest.json", "_SUCCESS"
FORMAT = 1
_NAMED = 5  # parts that an error names

OnPart = Callable[[int, int], None]  # parts that are there, and parts in all


class FailedPartsError(ValueError):
    """Some parts could not be made; `numbers` are theirs. All others are there."""

    def __init__(self, message: str, numbers: list[int]):
        super().__init__(message)
        self.numbers = numbers


def run_job(
    job: Job,
    finish: Callable[[], dict],
    *,
    engine: str,
    workers: int | None,
    gpus_per_worker: float,
    on_part: OnPart | None = None,
) -> None:
    """Makes all parts of a job that are not there, then `finish` and `_SUCCESS`.

    Args:
        job: The job.
        finish: Called once all parts are there; its record goes into `_SUCCESS`.
        engine: See `engines.run_parts`, as the next two.
        workers: See there.
        gpus_per_worker: See there.
        on_part: Called with the number of parts that are there and that of all: at the start, and
            after each.

    Raises:
        ValueError: If the folder is another job's, or an argument is wrong.
        FailedPartsError: If a part failed three times.
        LockedError: If another process works on the job.
    """
    check_engine(engine, workers, gpus_per_worker)
    _check_is_main()
    _check_manifest(job)
    done = _parts_there(job)
    if is_finished(job.folder) and len(done) == job.num_parts:
        if on_part is not None:
            on_part(job.num_parts, job.num_parts)
        return
    lock = Lock(job.folder / "job.lock", job.folder)
    lock.acquire()
    try:
        _check_manifest(job)  # which another may have begun meanwhile
        _prepare(job)
        done = _parts_there(job)
        if on_part is not None:
            on_part(len(done), job.num_parts)
        left = [number for number in range(job.num_parts) if number not in done]
        if left:
            for number in run_parts(job, left, engine, workers, gpus_per_worker):
                done.add(number)
                if on_part is not None:
                    on_part(len(done), job.num_parts)
        remove_unfinished(job.part(0).parent)  # of workers that outlived the first sweep
        _raise_failures(job)
        record = finish()
        write_json(job.folder / SUCCESS, {"job": job.key, "num_parts": job.num_parts, **record})
    finally:
        lock.release()


def is_finished(folder: Path) -> bool:
    """Tells whether a job was brought to its end in a folder."""
    return (folder / SUCCESS).exists()


def read_manifest(folder: Path) -> dict:
    """Returns the manifest of the job in a folder.

    Raises:
        ValueError: If there is none.
    """
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected the folder of a job, with {MANIFEST}. Received: {folder} ({error}). "
            "Hint: score_pool and `tfp-bayes score` make one."
        ) from None


def _check_is_main() -> None:
    """Raises RuntimeError in a worker that imports the script which started it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "Expected a script that does nothing when its workers import it. Received: one that "
            'starts a run then. Hint: put the call below `if __name__ == "__main__":`.'
        )


def _check_manifest(job: Job) -> None:
    if (job.folder / MANIFEST).exists():
        old = read_manifest(job.folder)
        new = {"format": FORMAT, **job.identity()}
        check_same_configuration(new, {"format": old.get("format"), **old["identity"]}, job.folder)
    elif (job.folder / "parts").exists() or (job.folder / SUCCESS).exists():
        raise ValueError(
            f"Expected a new folder, or that of this job. Received: {job.folder}, which has parts "
            f"and no {MANIFEST}. Hint: choose another folder."
        )


def _prepare(job: Job) -> None:
    """Writes the manifest, and sweeps what killed processes have left."""
    (job.folder / SUCCESS).unlink(missing_ok=True)
    if not (job.folder / MANIFEST).exists():
        record = {
            "format": FORMAT,
            "identity": job.identity(),
            "num_rows": job.num_rows,
            "rows_per_part": job.rows_per_part,
        }
        write_json(job.folder / MANIFEST, record)
    for folder in (job.folder, job.part(0).parent, job.failure(0).parent):
        folder.mkdir(exist_ok=True)
        remove_unfinished(folder)
    for path in job.failure(0).parent.glob("part-*.json"):
        path.unlink()  # it is tried again


def _parts_there(job: Job) -> set[int]:
    folder = job.part(0).parent
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return {number for number in range(job.num_parts) if job.part(number).name in names}


def _raise_failures(job: Job) -> None:
    paths = sorted(job.failure(0).parent.glob("part-*.json"))
    if not paths:
        return
    records = [json.loads(path.read_text()) for path in paths[:_NAMED]]
    named = "; ".join(f"part {each['part']}: {each['error']}" for each in records)
    more = f"; and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    numbers = [int(path.stem.removeprefix("part-")) for path in paths]
    raise FailedPartsError(
        f"Expected all {job.num_parts} parts. Received: {len(paths)} that failed three times, in "
        f"{paths[0].parent}. {named}{more}. Hint: correct the cause and start again: only these "
        "are made anew.",
        numbers,
    )
