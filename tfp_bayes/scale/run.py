"""Running of a job in its folder: first a manifest, then parts and failures, last `_SUCCESS`."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

from tfp_bayes._plumbing.checkpoint import check_same_configuration
from tfp_bayes._plumbing.files import remove_unfinished, write_json
from tfp_bayes._plumbing.lock import Lock
from tfp_bayes._plumbing.workers import check_engine, check_is_main, run_all
from tfp_bayes.scale.job import Job, complete, record_death

MANIFEST, SUCCESS = "manifest.json", "_SUCCESS"
FORMAT = 1
_NAMED = 5  # number of failed parts that an error names

OnPart = Callable[[int, int], None]  # (number of completed parts, number of all parts)


class FailedPartsError(ValueError):
    """Raised if some parts could not be made. All others are complete.

    Attributes:
        numbers: Numbers of the failed parts.
    """

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
    """Make all missing parts of a job, then call `finish` and write `_SUCCESS`.

    Args:
        job: The job to run.
        finish: Function called once all parts are complete. `_SUCCESS` contains the record that
            it returns.
        engine: See `workers.run_all`.
        workers: See `workers.run_all`.
        gpus_per_worker: See `workers.run_all`.
        on_part: Function called at the start and after each part, with the number of completed
            parts and the number of all parts.

    Raises:
        ValueError: If the folder belongs to another job, or an argument is invalid.
        FailedPartsError: If a part failed three times.
        LockedError: If another process is working on the job.
    """
    check_engine(engine, workers, gpus_per_worker)
    check_is_main()
    _check_manifest(job)
    done = _existing_parts(job)
    if is_finished(job.folder) and len(done) == job.num_parts:
        if on_part is not None:
            on_part(job.num_parts, job.num_parts)
        return
    lock = Lock(job.folder / "job.lock", job.folder)
    lock.acquire()
    try:
        _check_manifest(job)  # again: another process may have written it in the meantime
        _prepare(job)
        done = _existing_parts(job)

        def on_end(number: int) -> None:
            done.add(number)
            if on_part is not None:
                on_part(len(done), job.num_parts)

        if on_part is not None:
            on_part(len(done), job.num_parts)
        run_all(
            functools.partial(complete, job),
            [number for number in range(job.num_parts) if number not in done],
            on_end,
            engine=engine,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            share_cores=True,
            on_death=functools.partial(record_death, job),
        )
        remove_unfinished(job.part(0).parent)  # files of workers alive at the first cleanup
        _raise_failures(job)
        record = finish()
        write_json(job.folder / SUCCESS, {"job": job.key, "num_parts": job.num_parts, **record})
    finally:
        lock.release()


def is_finished(folder: Path) -> bool:
    """Return whether the job in a folder is finished."""
    return (folder / SUCCESS).exists()


def read_manifest(folder: Path) -> dict:
    """Return the manifest of the job in a folder.

    Raises:
        ValueError: If there is none.
    """
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected the folder of a job, with {MANIFEST}. Received: {folder} ({error}). "
            "Hint: score_pool and `tfp-bayes score` write such a folder."
        ) from None


def _check_manifest(job: Job) -> None:
    if (job.folder / MANIFEST).exists():
        old = read_manifest(job.folder)
        new = {"format": FORMAT, **job.identity()}
        check_same_configuration(new, {"format": old.get("format"), **old["identity"]}, job.folder)
    elif (job.folder / "parts").exists() or (job.folder / SUCCESS).exists():
        raise ValueError(
            f"Expected a new folder, or the folder of this job. Received: {job.folder}, which has "
            f"parts but no {MANIFEST}. Hint: choose another folder."
        )


def _prepare(job: Job) -> None:
    """Write the manifest, and remove files that killed processes left."""
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
        path.unlink()  # this run tries the part again


def _existing_parts(job: Job) -> set[int]:
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
        f"Expected all {job.num_parts} parts. Received: {len(paths)} of them failed three times "
        f"(see {paths[0].parent}): {named}{more}. Hint: correct the cause and start again; only "
        "these parts are made again.",
        numbers,
    )
