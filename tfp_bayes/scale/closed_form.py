"""Conditioning of the closed-form head on any number of examples, in one pass over the rows.

The posterior of a linear head depends on the examples only through sums of a fixed size. Each part
holds the sums of its rows. The sums are joined in the order of the parts.
"""

import functools
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfp_bayes import __version__
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.files import write_path_atomically
from tfp_bayes._plumbing.quiet import start_tensorflow
from tfp_bayes.scale.job import Job, Make, check_apart, check_rows, file_digest
from tfp_bayes.scale.rows import RowSource
from tfp_bayes.scale.run import OnPart, run_job
from tfp_bayes.scale.scoring import AT_ONCE

if TYPE_CHECKING:
    from tfp_bayes.layers.regression_data import Examples
    from tfp_bayes.networks import BayesianBasisRegression

CONDITIONED = "model.keras"


@dataclass(frozen=True)
class ConditionJob(Job):
    """Job that computes the sums of all rows for the head of a `BayesianBasisRegression`.

    Attributes:
        model: Path of the model's `.keras` file.
        model_digest: SHA-256 of that file.
        rows: Source of inputs and labels.
        rows_digest: Fingerprint of the rows.
    """

    model: str
    model_digest: str
    rows: RowSource
    rows_digest: str

    ending = ".npz"

    def identity(self) -> dict:
        """See `Job.identity`."""
        return {
            "task": "condition",
            "model": self.model_digest,
            "rows": self.rows_digest,
            "num_rows": self.num_rows,
            "rows_per_part": self.rows_per_part,
            "tfp_bayes": __version__,
        }

    def open(self) -> Make:
        """See `Job.open`."""
        return _open(self)


def condition(
    model: str | Path,
    rows: RowSource,
    out: str | Path,
    *,
    rows_per_part: int = 1_000_000,
    engine: str = "local",
    workers: int | None = None,
    gpus_per_worker: float = 0,
    on_part: OnPart | None = None,
) -> "BayesianBasisRegression":
    """Condition the closed-form head of a model on all rows of a pool, in one pass.

    Use it for data that do not fit in memory. The result equals that of
    `BayesianBasisRegression.condition` on all rows, up to rounding. Like a run of `score_pool`,
    this run may be killed; the same call continues it. The file of a part takes 8 (F + D)^2
    bytes, however many rows the part has.

    Args:
        model: `.keras` file of a `BayesianBasisRegression`.
        rows: Rows with labels, or with regression targets.
        out: Folder of this run. The conditioned model is saved there as `model.keras`.
        rows_per_part: Number of rows per part.
        engine: See `score_pool`.
        workers: See `score_pool`.
        gpus_per_worker: See `score_pool`.
        on_part: See `score_pool`.

    Returns:
        The conditioned model.

    Raises:
        ValueError: If the model is not a `BayesianBasisRegression`, or the rows have no labels.
            For other errors see `score_pool`.
    """
    check_integers(1, rows_per_part=rows_per_part)
    path = Path(model).expanduser().resolve()
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f"Expected a .keras file for `model`. Received: model={str(model)!r}. "
            'Hint: save it with model.save("model.keras").'
        )
    if rows.labels(np.arange(1)) is None:
        raise ValueError(
            f"Expected rows with labels. Received: {rows!r}. Hint: pass NpyRows('x.npy', 'y.npy')."
        )
    folder = Path(out).expanduser().resolve()
    check_apart(folder, [path], rows)
    digests = {"model_digest": file_digest(path), "rows_digest": rows.fingerprint()}
    job = ConditionJob(folder, len(rows), rows_per_part, str(path), rows=rows, **digests)
    run_job(
        job,
        functools.partial(_finish, job),
        engine=engine,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        on_part=on_part,
    )
    return _load(folder / CONDITIONED)


@functools.lru_cache(maxsize=1)  # once per worker
def _open(job: ConditionJob) -> Make:
    start_tensorflow()
    check_rows(job.rows, job.rows_digest)
    return functools.partial(_make, job, _load(Path(job.model)))


def _make(job: ConditionJob, model: "BayesianBasisRegression", start: int, stop: int) -> bytes:
    from tfp_bayes.layers import regression_data

    sums, head = _empty_sums(model), model.head
    for i in range(start, stop, AT_ONCE):
        at = np.arange(i, min(i + AT_ONCE, stop))
        phi = regression_data.check_features(
            model.embed(job.rows[at]), head.kernel_loc.shape[0], "head"
        )
        y = model.encode_targets(job.rows.labels(at))
        sums.add(phi, regression_data.check_targets(y, head.units, "head"), None)
    content: dict[str, Any] = {"job": np.array(job.key), **sums.get_state()}
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()


def _finish(job: ConditionJob) -> dict:
    """Join the sums of all parts, and save the conditioned model."""
    model = _load(Path(job.model))
    total = _empty_sums(model)
    for number in range(job.num_parts):
        part = _empty_sums(model)
        part.set_state(_read(job, number))
        total.join(part)
    model.head.condition(total, optimize_evidence=model.optimize_evidence)
    write_path_atomically(job.folder / CONDITIONED, model.save)
    return {"num_rows": job.num_rows}


def _read(job: ConditionJob, number: int) -> dict[str, np.ndarray]:
    path = job.part(number)
    try:
        with np.load(path, allow_pickle=False) as file:
            state = dict(file)
        if str(state.pop("job")) == job.key:
            return state
        received = "a part of another job"
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        received = str(error) or type(error).__name__
    raise ValueError(
        f"Expected part {number} of the job in {path}. Received: {received}. "
        "Hint: remove that file and start again; missing parts are made again."
    )


def _empty_sums(model: "BayesianBasisRegression") -> "Examples":
    from tfp_bayes.layers.regression_data import Examples

    head = model.head
    ratios = np.square(head.noise_scales.numpy() / head.prior_scales.numpy())
    ratio = 0.0 if model.optimize_evidence else float(ratios.min())  # as `condition` itself does
    return Examples(head.kernel_loc.shape[0], head.units, head.use_bias, ratio)


def _load(path: Path) -> "BayesianBasisRegression":
    import keras

    from tfp_bayes.networks import BayesianBasisRegression

    model = keras.models.load_model(path)
    if not isinstance(model, BayesianBasisRegression):
        raise ValueError(
            f"Expected a BayesianBasisRegression in {path}. Received: {type(model).__name__}. "
            "Hint: only the closed-form head of that model can be conditioned in parts."
        )
    return model
