"""Scoring of a pool of any size, in parts, by any number of workers."""

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
    """Score every row of a pool, in parts that any number of processes or machines make.

    Use it for pools that take hours or do not fit in memory. A run may be killed at any time, by
    Ctrl-C or by the failure of a machine. The same call continues it, and the result is bit-equal,
    because each part depends only on model, rows and seed. If the run is finished, the call only
    reads it.

    Afterward, `out` contains `manifest.json`, which describes the run; `parts/`, Parquet files
    with one line per row; `summary.json`; `top.csv`, the highest scores; and `_SUCCESS`, which is
    written last. To use several machines, put `out`, model and rows on a shared file system.

    Args:
        model: A SavedModel that `BayesianModel.export` or `export_saved_model` wrote, a `.keras`
            file, or "MODEL.keras+POSTERIOR.npz".
        rows: `NpyRows`, `ParquetRows`, `ImageFolder`, or your own frozen dataclass that is a
            `RowSource`.
        out: Folder of this run. Each run needs its own folder.
        num_samples: Number S of functions drawn from the posterior.
        seed: Integer of at least 0 that determines these functions. They are the same for every
            row.
        acquisition: Name of the score: "bald", "max_entropy", "margin", "least_confident",
            "variation_ratios", "mean_std" or "predictive_variance", see
            `tfp_bayes.active.acquisition`.
        likelihood: Meaning of a SavedModel's outputs: "categorical" (None), "bernoulli" or
            "normal". A `.keras` file states it.
        top: Number of rows in `top.csv`.
        rows_per_part: Number of rows per part. A killed worker loses its current part, so choose
            parts that take a worker half a minute or more.
        keep_mean: Whether the parts contain the predictive means, 4 K bytes per row.
        engine: "local" (this process), "processes" (several on this machine) or "ray" (the
            cluster of `ray.init`, else of RAY_ADDRESS, else this machine).
        workers: Number of processes or actors. None starts one per core, or with
            `gpus_per_worker` as many as the GPUs allow.
        gpus_per_worker: Number of GPUs per actor, with Ray. With 0.5, two actors share a GPU.
        on_part: Function called at the start and after each part, with the number of completed
            parts and the number of all parts.

    Returns:
        A `ScoredPool`.

    Raises:
        ValueError: If an argument is invalid, model and rows do not match, or `out` belongs to
            another run. The error names the differences.
        FailedPartsError: If a part failed three times. The error and `failed/` name the part and
            the reason. All other parts are complete, and the next call tries the failed ones again.
        OSError: If another process runs this job (`LockedError`), or the disk is full.
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
    pyarrow()  # raises an error now if it is missing
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
