"""Joint selection by BatchBALD and EPIG, with a certificate that it is the best in the pool.

A label's information about other labels, and the information that it adds to other labels, is at
most its information about the function. That is its BALD score, which the parts contain. So the
candidates of highest BALD suffice if each choice gains at least the highest BALD outside of them.
Otherwise, more candidates are added. Their samples are computed again, which works because sample s
is the same function everywhere.

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
from tfp_bayes.scale.pool import ScoredPool, check_row_numbers
from tfp_bayes.scale.rows import RowSource
from tfp_bayes.scale.scoring import AT_ONCE

CANDIDATES, MOST = 10_000, 100_000
NUM_TARGETS = 100
_ROUNDING = 1e-5  # nats, of scores in single precision
_BY = "mutual_information"


class CertifiedBatch(NamedTuple):
    """Rows chosen jointly from a whole pool.

    Attributes:
        rows: Row numbers (q,), int64, in the order of choice.
        gains: Information (q,) that each choice adds, float64, in nats.
        num_certified: Number of first choices that are proven to equal the greedy choice among
            all rows of the pool, up to 1e-5 nats.
        num_candidates: Number of rows whose samples were computed.
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
    """Choose greedily the batch of largest mutual information from a pool of any size.

    A choice can be certified only if the labels of the earlier choices are enumerated, that is
    for K^(q - 1) <= max_configurations. With ten classes and the default, these are the first
    five choices. Later gains are estimates.

    Args:
        pool: Scores of the pool.
        model: `.keras` file of the model that scored the pool.
        rows: Rows that were scored.
        query_size: Number of rows to choose.
        candidates: Initial number of candidates, the rows of highest BALD.
        most: Largest number of candidates. The samples of each take 4 S K bytes.
        seed: Seed of the sampled labels.
        max_configurations: See `tfp_bayes.active.batch_bald`.

    Returns:
        A `CertifiedBatch`.

    Raises:
        ValueError: If the pool was scored with another model or other rows, the model is not a
            classifier, or the model has a temperature, which changes the scores.
    """

    def choose(prediction: Any) -> Batch:
        if prediction.likelihood not in BatchBALD.likelihoods:
            raise ValueError(
                f"Expected a model of likelihood {BatchBALD.likelihoods} for BatchBALD. Received: "
                f"likelihood={prediction.likelihood!r}. Hint: pool.power(...) supports every "
                "likelihood."
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
    """Choose the rows of highest EPIG, the information of a label about labels of target rows.

    Args:
        pool: Scores of the pool.
        model: `.keras` file of the model that scored the pool.
        rows: Rows that were scored.
        query_size: Number of rows to choose.
        targets: Row numbers (T,) of the pool where the model shall predict well. None draws 100
            rows with finite scores.
        candidates: Initial number of candidates, the rows of highest BALD.
        most: Largest number of candidates.
        seed: Seed of the drawn targets.

    Returns:
        A `CertifiedBatch`.

    Raises:
        ValueError: See `batch_bald`. Also if `targets` are not row numbers of the pool.
    """
    predict = _predictor(pool, model, rows)
    if targets is None:
        rng = np.random.default_rng(seed)
        drawn = rng.choice(pool.num_rows, min(NUM_TARGETS, pool.num_rows), replace=False)
        known = np.isfinite(pool.read(drawn, [_BY])[_BY])
        targets = np.sort(drawn[known])
    asked = predict(check_row_numbers(targets, pool.num_rows, "targets"))

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
    """Choose among candidates, and add candidates until no other row can gain more."""
    from tfp_bayes.prediction import concatenate

    check_integers(1, query_size=query_size, candidates=candidates, most=most)
    bald = pool.top(max(most, query_size), _BY)
    if len(bald.rows) < query_size:
        raise ValueError(
            f"Expected at most {len(bald.rows)}, the number of rows with finite scores, for "
            f"`query_size`. Received: query_size={query_size}. Hint: choose fewer rows."
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
    """Return the highest BALD of the rows that are not candidates, or -inf if there are none."""
    if size < len(bald.rows):
        return bald.scores[size]
    return bald.scores[-1] if len(bald.rows) >= most else -np.inf


def _predictor(pool: ScoredPool, model: str | Path, rows: RowSource) -> Callable[[np.ndarray], Any]:
    """Return a function that predicts rows, with samples, by the functions that scored the pool."""
    from tfp_bayes.prediction import concatenate

    files = served.files_of(model)
    same = file_digest(*files) == pool.identity["model"]
    if not same or rows.fingerprint() != pool.identity["rows"]:
        raise ValueError(
            f"Expected the model and rows with which {pool.folder} was scored. Received: "
            f"another {'`rows`' if same else '`model`'}. Hint: the samples must come from the same "
            "functions; score the pool again with score_pool."
        )
    loaded = served.load("+".join(map(str, files)), pool.identity["likelihood"])
    if isinstance(loaded, served.ServedModel):
        raise ValueError(
            f"Expected a .keras file, which can return samples. Received: {model}, a SavedModel. "
            "Hint: score the pool with a file that model.save('model.keras') wrote."
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
    """Raise ValueError unless the predictions reproduce the scores of the pool."""
    scored = pool.read(indices, [_BY])[_BY]
    if prediction.temperature != 1 or not np.allclose(
        scored, prediction.mutual_information, rtol=1e-3, atol=_ROUNDING
    ):
        raise ValueError(
            "Expected samples that reproduce the scores of the pool. Received: a temperature of "
            f"{prediction.temperature:.4g}, and mutual information that differs by up to "
            f"{np.abs(scored - prediction.mutual_information).max(initial=0):.3g} nats. Hint: "
            "score the pool before model.calibrate, on a machine of the same type."
        )
