"""The job that scores a pool, and the computation of its parts."""

import functools
import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes import __version__
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.quiet import start_tensorflow
from tfp_bayes.active import acquisition as acquisitions
from tfp_bayes.scale import served
from tfp_bayes.scale.job import Job, Make, check_apart, check_rows, file_digest
from tfp_bayes.scale.names import SCORES
from tfp_bayes.scale.parts import to_parquet
from tfp_bayes.scale.rows import RowSource
from tfp_bayes.scale.summary import MEASURES, Summary
from tfp_bayes.scale.sums import MOST_VALUES

AT_ONCE = 4096  # number of rows whose inputs are in memory at the same time


@dataclass(frozen=True)
class ScoreJob(Job):
    """Job that scores all rows of a pool.

    A part contains these columns: row, score, predictive_entropy, expected_entropy and
    mutual_information; for a classifier, predicted and confidence; mean (K,), with `keep_mean`;
    and label, if the rows have labels.

    Attributes:
        model: Path of the saved model.
        model_digest: SHA-256 of its files.
        rows: Source of the inputs.
        rows_digest: Fingerprint of the rows.
        num_samples: Number of samples S.
        seed: Seed that determines the S functions, which are the same for every row.
        acquisition: Name of the score.
        likelihood: Meaning of the model's outputs, or None, see `served.load`.
        keep_mean: Whether parts contain the predictive means.
    """

    model: str
    model_digest: str
    rows: RowSource
    rows_digest: str
    num_samples: int
    seed: int
    acquisition: str
    likelihood: str | None
    keep_mean: bool

    def identity(self) -> dict:
        """See `Job.identity`. Includes package versions, which may round differently."""
        packages = ("tensorflow", "keras", "numpy")
        return {
            "task": "score",
            "model": self.model_digest,
            "rows": self.rows_digest,
            "num_rows": self.num_rows,
            "rows_per_part": self.rows_per_part,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "acquisition": self.acquisition,
            "likelihood": self.likelihood,
            "keep_mean": self.keep_mean,
            "tfp_bayes": __version__,
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }

    def open(self) -> Make:
        """See `Job.open`. Also checks a prediction for inputs of this shape and dtype."""
        return _open(self)


def make_job(
    model: str | Path,
    rows: RowSource,
    out: str | Path,
    num_samples: int,
    seed: int,
    acquisition: str,
    likelihood: str | None,
    rows_per_part: int,
    keep_mean: bool,
) -> ScoreJob:
    """Return the job of `score_pool`, without importing TensorFlow.

    Raises:
        ValueError: If an argument is invalid.
    """
    check_integers(1, num_samples=num_samples, rows_per_part=rows_per_part)
    check_integers(0, seed=seed)
    if rows_per_part > MOST_VALUES:
        raise ValueError(
            f"Expected at most {MOST_VALUES} for `rows_per_part`. Received: rows_per_part="
            f"{rows_per_part}. Hint: a part should take seconds to minutes."
        )
    check_acquisition(acquisition)
    check_source(rows)
    files, folder = served.files_of(model), Path(out).expanduser().resolve()
    check_apart(folder, files, rows)
    if not len(rows):
        raise ValueError(
            f"Expected at least one row in the pool. Received: none in {rows!r}. "
            "Hint: check its path."
        )
    return ScoreJob(
        folder=folder,
        num_rows=len(rows),
        rows_per_part=int(rows_per_part),
        model="+".join(map(str, files)),
        model_digest=file_digest(*files),
        rows=rows,
        rows_digest=rows.fingerprint(),
        num_samples=int(num_samples),
        seed=int(seed),
        acquisition=acquisition,
        likelihood=likelihood,
        keep_mean=keep_mean,
    )


def check_acquisition(acquisition: str) -> None:
    """Raise ValueError unless an acquisition function scores each row by itself."""
    if acquisition not in SCORES:
        raise ValueError(
            f"Expected one of {SCORES} for `acquisition`. Received: acquisition={acquisition!r}. "
            "Hint: scale.epig and scale.batch_bald choose from a pool that was scored by 'bald'."
        )


def check_source(rows: RowSource) -> None:
    """Raise ValueError unless workers can open the rows for themselves."""
    if not hasattr(rows, "fingerprint"):
        raise ValueError(
            f"Expected a row source for `rows`. Received: rows of type {type(rows).__name__}. "
            "Hint: use scale.NpyRows, ParquetRows or ImageFolder; save an array with np.save."
        )


@functools.lru_cache(maxsize=1)  # once per worker
def _open(job: ScoreJob) -> Make:
    start_tensorflow()
    if file_digest(*served.files_of(job.model)) != job.model_digest:
        raise ValueError(
            f"Expected the same model as when the run began. Received: {job.model}, which has "
            "changed. Hint: use another folder for the new model."
        )
    check_rows(job.rows, job.rows_digest)
    model = served.load(job.model, job.likelihood)
    shape, dtype = job.rows.spec
    _check(job, model.predict_uncertainty(np.zeros((2, *shape), dtype), job.num_samples, job.seed))
    return functools.partial(_make, job, model)


def _check(job: ScoreJob, prediction: Any) -> None:
    """Raise ValueError unless such predictions can be scored row by row."""
    mean = getattr(prediction, "mean", None)
    if mean is None or mean.ndim != 2:
        received = "several outputs" if mean is None else f"a mean of shape {mean.shape}"
        raise ValueError(
            f"Expected one prediction for each row, (N, K). Received: {received}. "
            "Hint: select one output with keras.Model(model.inputs, model.outputs[0]), or add a "
            "layer that pools dense predictions."
        )
    acquisitions.check_likelihood(acquisitions.get(job.acquisition), prediction.likelihood)
    of_variance = job.acquisition in ("mean_std", "predictive_variance")
    if of_variance and np.isnan(prediction.epistemic_variance).all():
        raise ValueError(
            f"Expected a SavedModel with variances for acquisition={job.acquisition!r}. Received: "
            f"{job.model}, which an earlier release exported. Hint: export it again."
        )
    labels = job.rows.labels(np.arange(1))
    if labels is None:
        return
    if prediction.likelihood != "categorical" or labels.size != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            "Expected a classifier of exclusive classes, and integer labels (N,), for rows with "
            f"labels. Received: likelihood={prediction.likelihood!r}, {labels.dtype}, "
            f"{labels.size} for each row. Hint: score the rows without labels."
        )


def _make(job: ScoreJob, model: Any, start: int, stop: int) -> bytes:
    blocks = [
        _score(job, model, np.arange(i, min(i + AT_ONCE, stop)))
        for i in range(start, stop, AT_ONCE)
    ]
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    summary = Summary.of(columns)
    if not job.keep_mean:
        del columns["mean"]
    record = {
        "job": job.key,
        "first_row": start,
        "num_rows": stop - start,
        "cpu": _cpu(),
        "checksum": checksum(columns),
        "summary": summary.as_json(),
    }
    return to_parquet(columns, record)


def _score(job: ScoreJob, model: Any, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of the given rows."""
    prediction = model.predict_uncertainty(job.rows[indices], job.num_samples, job.seed)
    mean = prediction.mean
    columns = {"row": indices, "score": acquisitions.get(job.acquisition)(prediction)}
    columns |= {name: getattr(prediction, name) for name in MEASURES}
    if prediction.likelihood == "categorical":
        known = np.isfinite(prediction.predictive_entropy)
        columns["predicted"] = np.where(known, mean.argmax(-1), -1).astype("int32")
        columns["confidence"] = mean.max(-1)
    columns["mean"] = mean
    labels = job.rows.labels(indices)
    if labels is not None:
        columns["label"] = _checked(labels, indices, mean.shape[1])
    return columns


def _checked(labels: np.ndarray, indices: np.ndarray, num_classes: int) -> np.ndarray:
    labels = labels.reshape(len(indices))  # accepts a column (n, 1) too
    wrong = indices[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"Expected labels in [0, {num_classes}). Received: other labels in the rows "
            f"{wrong[:5].tolist()}, {wrong.size} of {len(labels)}. Hint: number the classes from 0."
        )
    return labels.astype("int64")


def checksum(columns: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 of all columns: names, dtypes, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(columns):
        found.update(f"{name} {columns[name].dtype.str} {columns[name].shape}".encode())
        found.update(np.ascontiguousarray(columns[name]).tobytes())
    return found.hexdigest()


@functools.cache
def _cpu() -> str:
    """Return a digest of this machine's instruction set, which determines how it rounds."""
    flags = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        pass
    return f"{platform.machine()} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"
