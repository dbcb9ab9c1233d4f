"""Scoring of a learner's pool by processes or a Ray cluster in each round."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes._plumbing.digest import digest, digest_network
from tfp_bayes._plumbing.files import write_path_atomically
from tfp_bayes._plumbing.lock import lock_of
from tfp_bayes._plumbing.workers import check_engine
from tfp_bayes.active.query import Best
from tfp_bayes.inference.refitted import Refitted
from tfp_bayes.scale.rows import RowSource
from tfp_bayes.scale.run import OnPart
from tfp_bayes.scale.score import ROWS_PER_PART, score_pool
from tfp_bayes.scale.scoring import check_acquisition, check_source

MODEL, POSTERIOR, SCORES = "model.keras", "posterior.npz", "scores"


class PoolScorer:
    """Scores the pool of an `ActiveLearner` with `score_pool`, once in each round.

    Use it when a round spends most of its time on scoring. The model is saved, processes or the
    machines of a Ray cluster score the whole pool, and the learner continues with the examples of
    highest score. The scores are those that the learner itself would compute, so "top_k" acquires
    the same examples. A round that was killed reuses its completed parts. Rows that are not finite
    are never chosen.

    Args:
        rows: Source of the learner's `x`. Pass the same object to both.
        folder: Folder for the model and the scores of the current round, used only by this
            scorer. Those of the previous round are deleted.
        engine: See `score_pool`.
        workers: See `score_pool`.
        gpus_per_worker: See `score_pool`.
        rows_per_part: See `score_pool`.
        on_part: See `score_pool`.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> from tfp_bayes import scale
    >>> np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 4)))
    >>> rows = scale.NpyRows(tmp_path / "x.npy")
    >>> model = tfp_bayes.BayesianMLP((4,), 2, seed=0)
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> scorer = scale.PoolScorer(rows, tmp_path / "scores", engine="local")
    >>> learner = tfp_bayes.ActiveLearner(
    ...     model, rows, np.arange(50) % 2, initial=range(4),
    ...     query={"size": 5, "num_samples": 10, "scorer": scorer}, refit={"steps": 5})
    >>> [row.num_acquired for row in learner.run(total_rounds=2)]
    [0, 5, 10]
    """

    def __init__(
        self,
        rows: RowSource,
        folder: str | Path,
        *,
        engine: str = "processes",
        workers: int | None = None,
        gpus_per_worker: float = 0,
        rows_per_part: int = ROWS_PER_PART,
        on_part: OnPart | None = None,
    ):
        check_source(rows)
        check_engine(engine, workers, gpus_per_worker)
        self.rows = rows
        self.folder = Path(folder).expanduser().resolve()
        self._settings: dict[str, Any] = {
            "engine": engine,
            "workers": workers,
            "gpus_per_worker": gpus_per_worker,
            "rows_per_part": rows_per_part,
            "on_part": on_part,
        }

    def check(self, acquisition: str) -> None:
        """See `Scorer.check`."""
        check_acquisition(acquisition)

    def best(
        self,
        model: Any,
        acquisition: str,
        unlabelled: np.ndarray,
        size: int,
        num_samples: int,
        seed: int,
    ) -> Best:
        """See `Scorer.best`."""
        if unlabelled.max(initial=-1) >= len(self.rows):
            raise ValueError(
                f"Expected the learner's `x` for `rows`. Received: {len(self.rows)} rows, and a "
                f"learner that asks about row {unlabelled.max()}. Hint: pass the same object to "
                "both."
            )
        lock = lock_of(self.folder / "round")
        lock.acquire()
        network, posterior = model, None
        if isinstance(model, Refitted):
            network, posterior = model.model, model.posterior
        weights = [variable.numpy() for variable in network.variables]
        state = {} if posterior is None else model.get_state()
        # A saved model contains the time of day, so its file does not identify it.
        key = digest([digest_network(network), weights, state, acquisition, num_samples, seed])
        place = self.folder / f"round-{key}"
        for other in self.folder.glob("round-*"):
            if other != place:
                shutil.rmtree(other)
        place.mkdir(parents=True, exist_ok=True)
        files = [place / MODEL]
        if posterior is not None:
            files.append(place / POSTERIOR)
        for path, save in zip(files, [network.save, getattr(posterior, "save", None)]):
            if not path.exists():
                write_path_atomically(path, save)
        pool = score_pool(
            "+".join(map(str, files)),
            self.rows,
            place / SCORES,
            num_samples=num_samples,
            seed=seed,
            acquisition=acquisition,
            keep_mean=False,
            **self._settings,
        )
        others = pool.num_rows - len(unlabelled)  # labeled or ignored, but may have high scores
        chosen = pool.top(others + size)
        kept = np.flatnonzero(np.isin(chosen.rows, unlabelled))[:size]
        uncertainty = pool.summary.mean("mutual_information")
        return Best(chosen.rows[kept], chosen.scores[kept], uncertainty)
