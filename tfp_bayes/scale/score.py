"""Scores of a pool of any size, made in parts by any number of workers."""

import functools
from pathlib import Path

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes.scale.parts import pyarrow
from tfp_bayes.scale.pool import ScoredPool, merge, write_top
from tfp_bayes.scale.rows import RowSource
from tfp_bayes.scale.run import OnPart, run_job
from tfp_bayes.scale.scoring import make_job

ROWS_PER_PART = 65_536


def score_pool(
    model: str | Path,
    rows: RowSource,
    out: str | Path,
    *,
    num_samples: int = 100,
    seed: int = 0,
    acquisition: str = "bald",
    likelihood: str | None = None,
    top: int = 10_000,
    rows_per_part: int = ROWS_PER_PART,
    keep_mean: bool = True,
    engine: str = "local",
    workers: int | None = None,
    gpus_per_worker: float = 0,
    on_part: OnPart | None = None,
) -> ScoredPool:
    """Scores every row of a pool, in parts that any number of processes or machines make.

    Use it for pools that take hours or that no memory holds. A run may be killed anywhere, by
    Ctrl-C or by a machine that dies: the same call goes on, and the result is the same to the last
    bit, because each part follows from model, rows and seed alone. A finished run is only read.

    `out` then holds `manifest.json`, which says what was computed; `parts/`, Parquet files with a
    line for each row; `summary.json`; `top.csv`, the highest scores; and `_SUCCESS`, written last.
    Several machines need `out`, model and rows on a file system that they share.

    Args:
        model: A SavedModel that `BayesianModel.export` or `export_saved_model` wrote, a `.keras`
            file, or "MODEL.keras+POSTERIOR.npz".
        rows: `NpyRows`, `ParquetRows`, `ImageFolder`, or a frozen dataclass of one's own that is a
            `RowSource`.
        out: Folder of this run, and of no other.
        num_samples: S functions drawn from the posterior.
        seed: Integer of at least 0 that decides these functions, the same for every row.
        acquisition: What the score is: "bald", "max_entropy", "margin", "least_confident",
            "variation_ratios", "mean_std" or "predictive_variance", see
            `tfp_bayes.active.acquisition`.
        likelihood: What a SavedModel's outputs mean: "categorical" (None), "bernoulli" or
            "normal". A `.keras` file says it.
        top: Rows in `top.csv`.
        rows_per_part: Rows of a part, which is lost if its worker is killed: take what a worker
            does in half a minute or more.
        keep_mean: Whether parts hold the predictive means, 4 K bytes a row.
        engine: "local" (this process), "processes" (on this machine) or "ray" (a cluster: that of
            `ray.init`, of RAY_ADDRESS, or this machine).
        workers: Processes or actors; None is one for each core, or for each GPU share.
        gpus_per_worker: GPUs of an actor, with Ray; 0.5 lets two share one.
        on_part: Called with the number of parts that are there and that of all, at the start and
            after each.

    Returns:
        A `ScoredPool`.

    Raises:
        ValueError: If an argument is wrong, model and rows do not fit, or `out` is of another run;
            what differs is named.
        FailedPartsError: If a part failed three times. It is named, with the reason, here and in
            `failed/`; all others are there, and the next call tries it again.
        OSError: If another process runs this job (`LockedError`), or a disk is full.
        ImportError: If PyArrow or Ray is missing.

    Example:

    >>> from tfp_bayes import scale
    >>> tfp_bayes.BayesianMLP((4,), 3, seed=0).save(tmp_path / "model.keras")
    >>> np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 4)))
    >>> rows = scale.NpyRows(tmp_path / "x.npy")
    >>> pool = scale.score_pool(
    ...     tmp_path / "model.keras", rows, tmp_path / "scores", num_samples=5, rows_per_part=20)
    >>> pool.num_rows, len(pool.parts), pool.top(3).rows.shape
    (50, 3, (3,))
    """
    check_integers(1, top=top)
    pyarrow()  # says now if it is missing
    job = make_job(
        model, rows, out, num_samples, seed, acquisition, likelihood, rows_per_part, keep_mean
    )
    run_job(
        job,
        functools.partial(merge, job),
        engine=engine,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        on_part=on_part,
    )
    pool = ScoredPool(job.folder)
    write_top(pool, rows, top)
    return pool
