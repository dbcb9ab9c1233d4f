"""Batches chosen for what their labels say together, with a proof that they are the pool's best.

What a label adds to others, and what it says of other labels, is never more than what it says of
the functions: its BALD score, which the parts hold. So the candidates of highest BALD are enough as
long as each choice gains at least what the best of all others could. Where one does not, more
candidates are taken. Their samples are computed anew, as sample s is the same function everywhere.

Reference:
    Kirsch et al. 2019, equation 8, arXiv:1906.08158; Bickford Smith et al. 2023, equation 5,
    arXiv:2304.08151; the chain rule and the data processing inequality.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes.active import acquisition
from tfp_bayes.active.selectors.batch_bald import MAX_CONFIGURATIONS, Batch, BatchBALD, pick_batch
from tfp_bayes.scale import served
from tfp_bayes.scale.choice import Chosen
from tfp_bayes.scale.job import file_digest
from tfp_bayes.scale.pool import ScoredPool
from tfp_bayes.scale.rows import RowSource
from tfp_bayes.scale.scoring import AT_ONCE

CANDIDATES, MOST = 10_000, 100_000
NUM_TARGETS = 100
_ROUNDING = 1e-5  # nats, of scores in single precision
_BY = "mutual_information"


class CertifiedBatch(NamedTuple):
    """Rows chosen together from a whole pool.

    Attributes:
        rows: (q,) int64, the first choice first.
        gains: (q,) float64, what each adds, in nats.
        num_certified: The first so many are what the greedy choice among all rows of the pool is,
            to 1e-5 nats; of the others that is not proven.
        num_candidates: Rows whose samples were computed.
    """

    rows: np.ndarray
    gains: np.ndarray
    num_certified: int
    num_candidates: int


def batch_bald(
    pool: ScoredPool,
    model: str | Path,
    rows: RowSource,
    query_size: int,
    *,
    candidates: int = CANDIDATES,
    most: int = MOST,
    seed: int = 0,
    max_configurations: int = MAX_CONFIGURATIONS,
) -> CertifiedBatch:
    """Picks greedily the batch of largest mutual information from a pool of any size.

    Choices are certified while the labels of those before them are enumerated,
    K^(q - 1) <= max_configurations, five of ten classes by default; later gains are estimates.

    Args:
        pool: The scores of the pool.
        model: The `.keras` file that it was scored with.
        rows: The rows that were scored.
        query_size: Number to pick.
        candidates: Rows of highest BALD to begin with.
        most: Rows of highest BALD at most; their samples take 4 S K bytes each.
        seed: Of the sampled labels.
        max_configurations: See `tfp_bayes.active.batch_bald`.

    Raises:
        ValueError: If model or rows are not those that were scored, the model is no classifier, or
            a temperature changes its scores.
    """

    def choose(prediction: Any) -> Batch:
        if prediction.likelihood not in BatchBALD.likelihoods:
            raise ValueError(
                f"Expected a model of likelihood {BatchBALD.likelihoods} for BatchBALD. Received: "
                f"likelihood={prediction.likelihood!r}. Hint: pool.power(...) works with any."
            )
        return pick_batch(prediction.samples, query_size, seed, max_configurations)

    predict = _predictor(pool, model, rows)
    return _certified(pool, predict, choose, query_size, candidates, most)


def epig(
    pool: ScoredPool,
    model: str | Path,
    rows: RowSource,
    query_size: int,
    *,
    targets: np.ndarray | None = None,
    candidates: int = CANDIDATES,
    most: int = MOST,
    seed: int = 0,
) -> CertifiedBatch:
    """Chooses the rows of highest EPIG, what a label says of the labels of target examples.

    Args:
        pool: The scores of the pool.
        model: The `.keras` file that it was scored with.
        rows: The rows that were scored.
        query_size: Number to choose.
        targets: Rows (T,) of the pool that the model will be asked about; None draws 100.
        candidates: Rows of highest BALD to begin with.
        most: Rows of highest BALD at most.
        seed: Of the targets that are drawn.

    Raises:
        ValueError: As `batch_bald`.
    """
    predict = _predictor(pool, model, rows)
    if targets is None:
        rng = np.random.default_rng(seed)
        drawn = rng.choice(pool.num_rows, min(NUM_TARGETS, pool.num_rows), replace=False)
        known = np.isfinite(pool.read(drawn, [_BY])[_BY])
        targets = np.sort(drawn[known])
    asked = predict(np.asarray(targets, "int64"))

    def choose(prediction: Any) -> Batch:
        scores = acquisition.epig(prediction, targets=asked)
        best = np.argsort(-scores, kind="stable")[:query_size]
        return Batch(best, scores[best].astype("float64"), np.ones(len(best), bool))

    return _certified(pool, predict, choose, query_size, candidates, most)


def _certified(
    pool: ScoredPool,
    predict: Callable[[np.ndarray], Any],
    choose: Callable[[Any], Batch],
    query_size: int,
    candidates: int,
    most: int,
) -> CertifiedBatch:
    """Chooses among candidates, and among more of them until nobody else can gain as much."""
    from tfp_bayes.prediction import concatenate

    check_integers(1, query_size=query_size, candidates=candidates, most=most)
    bald = pool.top(max(most, query_size), _BY)
    if len(bald.rows) < query_size:
        raise ValueError(
            f"Expected at most {len(bald.rows)}, the rows with finite scores, for `query_size`. "
            f"Received: query_size={query_size}. Hint: ask for fewer."
        )
    size, done = min(max(candidates, query_size), len(bald.rows)), 0
    parts: list[Any] = []
    while True:
        parts.append(predict(bald.rows[done:size]))
        done = size
        batch = choose(concatenate(parts))
        is_safe = batch.gains >= _best_of_others(bald, size, most) + _ROUNDING
        if is_safe.all() or size == len(bald.rows):
            break
        worst = batch.gains[~is_safe][0] - _ROUNDING
        size = min(max(int((bald.scores >= worst).sum()), 2 * size), len(bald.rows))
    proven = is_safe & batch.is_exact
    num_certified = len(proven) if proven.all() else int(proven.argmin())
    return CertifiedBatch(bald.rows[batch.positions], batch.gains, num_certified, size)


def _best_of_others(bald: Chosen, size: int, most: int) -> float:
    """Returns the highest BALD of rows that are no candidates, -inf if there are none."""
    if size < len(bald.rows):
        return bald.scores[size]
    return bald.scores[-1] if len(bald.rows) >= most else -np.inf


def _predictor(pool: ScoredPool, model: str | Path, rows: RowSource) -> Callable[[np.ndarray], Any]:
    """Returns what predicts rows with samples, by the functions that scored the pool."""
    from tfp_bayes.prediction import concatenate

    files = served.files_of(model)
    same = file_digest(*files) == pool.identity["model"]
    if not same or rows.fingerprint() != pool.identity["rows"]:
        raise ValueError(
            f"Expected model and rows that {pool.folder} was scored with. Received: "
            f"another {'`rows`' if same else '`model`'}. Hint: samples must be of the same "
            "functions; score_pool scores anew."
        )
    loaded = served.load("+".join(map(str, files)), pool.identity["likelihood"])
    if isinstance(loaded, served.ServedModel):
        raise ValueError(
            f"Expected a .keras file, whose samples can be had one by one. Received: {model}, a "
            "SavedModel. Hint: model.save('model.keras'), and score the pool with that."
        )
    given = {name: pool.identity[name] for name in ("num_samples", "seed")}

    def predict(indices: np.ndarray) -> Any:
        blocks = [indices[i : i + AT_ONCE] for i in range(0, max(len(indices), 1), AT_ONCE)]
        prediction = concatenate(
            [loaded.predict_uncertainty(rows[at], **given, return_samples=True) for at in blocks]
        )
        _check_same(pool, indices, prediction)
        return prediction

    return predict


def _check_same(pool: ScoredPool, indices: np.ndarray, prediction: Any) -> None:
    """Raises ValueError unless samples explain the scores of the pool."""
    scored = pool.read(indices, [_BY])[_BY]
    if prediction.temperature != 1 or not np.allclose(
        scored, prediction.mutual_information, rtol=1e-3, atol=_ROUNDING
    ):
        raise ValueError(
            "Expected samples that make the scores of the pool. Received: a temperature of "
            f"{prediction.temperature:.4g}, and mutual information that differs by up to "
            f"{np.abs(scored - prediction.mutual_information).max(initial=0):.3g} nats. Hint: "
            "score the pool before model.calibrate, on this type of machine."
        )
