"""Conformal scores and quantiles against theory, MAPIE and hand-computed cases."""

import math
import warnings

import numpy as np
import pytest
from scipy.stats import betabinom, chisquare, kstest

from tfp_bayes.uncertainty import (
    aps_scores,
    choose_raps_penalty,
    class_conditional_quantiles,
    conformal_quantile,
    cqr_scores,
    lac_scores,
    normalized_scores,
    row_uniforms,
)

REPETITIONS, CALIBRATION, TEST, COVERAGE = 1000, 60, 30, 0.9


def classes(num_rows, num_classes=5, seed=0):
    """Miscalibrated probabilities, and labels."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(np.ones(num_classes) / 2, num_rows)
    labels = (truth.cumsum(1) > rng.random((num_rows, 1))).argmax(1)
    probs = truth**2 + 0.01
    return labels, probs / probs.sum(1, keepdims=True)


def scores_of(method, num_rows):
    """Scores of exchangeable examples at their true labels."""
    if method in ("normalized", "cqr"):
        rng = np.random.default_rng(1)
        scale = rng.uniform(0.1, 2, num_rows)
        y = scale * rng.standard_t(3, num_rows)  # the model assumes a normal
        if method == "normalized":
            return normalized_scores(y, np.zeros(num_rows), scale)
        return cqr_scores(y, -scale, scale)
    labels, probs = classes(num_rows)
    if method == "lac":
        scores = lac_scores(probs)
    else:
        penalty = 0.1 if method == "raps" else 0.0
        scores = aps_scores(probs, row_uniforms(probs), penalty, free_ranks=2)
    return scores[np.arange(num_rows), labels]


def check_counts(counts, rank, num_calibration):
    """Counts of covered test examples follow the exact distribution from theory."""
    theory = betabinom(TEST, rank, num_calibration + 1 - rank)
    z = (counts.mean() - theory.mean()) / (theory.std() / math.sqrt(len(counts)))
    assert abs(z) < 5.5
    edges = [0, 24, 26, 27, 28, 29, 30]  # cells of about equal probability
    expected = np.diff([*(theory.cdf(e - 1) for e in edges), 1])
    found = np.histogram(counts, [*edges, TEST + 1])[0]
    assert chisquare(found, expected * len(counts)).pvalue > 1e-7


@pytest.mark.parametrize("method", ["lac", "aps", "raps", "normalized", "cqr"])
def test_coverage_is_beta_binomial(method):
    scores = scores_of(method, REPETITIONS * (CALIBRATION + TEST)).reshape(REPETITIONS, -1)
    quantile = conformal_quantile(scores[:, :CALIBRATION].T, COVERAGE)
    covered = scores[:, CALIBRATION:] <= quantile[:, None]
    check_counts(covered.sum(1), math.ceil((CALIBRATION + 1) * COVERAGE), CALIBRATION)


def test_interpolated_quantiles_would_be_noticed():
    scores = scores_of("lac", REPETITIONS * (CALIBRATION + TEST)).reshape(REPETITIONS, -1)
    quantile = np.quantile(scores[:, :CALIBRATION], COVERAGE, axis=1)
    covered = scores[:, CALIBRATION:] <= quantile[:, None]
    with pytest.raises(AssertionError):
        check_counts(covered.sum(1), math.ceil((CALIBRATION + 1) * COVERAGE), CALIBRATION)


def test_each_class_is_covered():
    labels, probs = classes(200_000, num_classes=3)
    scores = lac_scores(probs)[np.arange(len(labels)), labels]
    size = CALIBRATION + TEST
    per_class = [scores[labels == k][: REPETITIONS // 2 * size] for k in range(3)]
    blocks = [each.reshape(-1, size) for each in per_class]  # one repetition per row
    counts = []
    for rows in zip(*blocks):
        given = np.concatenate([row[:CALIBRATION] for row in rows])
        y = np.repeat(range(3), CALIBRATION)
        quantiles = class_conditional_quantiles(given, y, 3, COVERAGE)
        counts.append([(row[CALIBRATION:] <= q).sum() for row, q in zip(rows, quantiles)])
    rank = math.ceil((CALIBRATION + 1) * COVERAGE)
    for k in range(3):
        check_counts(np.array(counts)[:, k], rank, CALIBRATION)


def test_randomized_sets_are_smaller():
    labels, probs = classes(20_000)

    def size(u):
        scores = aps_scores(probs, u)
        quantile = conformal_quantile(scores[np.arange(10_000), labels[:10_000]], COVERAGE)
        return (scores[10_000:] <= quantile).sum(1).mean()

    assert size(row_uniforms(probs)) < size(np.zeros(20_000))


@pytest.mark.parametrize(
    ("num_scores", "coverage", "rank"),
    [(9, 0.9, 9), (8, 0.9, None), (10, 0.9, 10), (99, 0.9, 90), (100, 0.9, 91), (4, 0.8, 4)],
)
def test_quantile_is_an_order_statistic(num_scores, coverage, rank):
    scores = np.random.default_rng(0).permutation(num_scores) + 1.0  # 1 to n
    expected = math.inf if rank is None else rank
    assert conformal_quantile(scores, coverage) == expected
    assert np.array_equal(conformal_quantile(np.c_[scores, -scores], coverage)[:1], [expected])


def test_quantile_of_ties_and_of_nothing():
    assert conformal_quantile(np.ones(20)) == 1
    assert conformal_quantile([], 0.5) == math.inf
    assert np.array_equal(
        class_conditional_quantiles([0.5], [1], 3, 0.5), [math.inf, 0.5, math.inf]
    )


@pytest.mark.parametrize("num_rows", [50, 99, 150])
def test_equals_mapie(num_rows):
    mapie = pytest.importorskip("mapie.classification")
    from mapie.conformity_scores import APSConformityScore, LACConformityScore
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(5)

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

    labels, probs = classes(num_rows + 300)
    given, new = slice(num_rows), slice(num_rows, None)
    rows = np.arange(num_rows)

    def conformalized(score):
        theirs = mapie.SplitConformalClassifier(
            Given(), confidence_level=0.9, conformity_score=score, prefit=True, random_state=3
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return theirs.conformalize(probs[given], labels[given])

    scores = lac_scores(probs)
    sets = scores[new] <= conformal_quantile(scores[given][rows, labels[given]])
    theirs = conformalized(LACConformityScore())
    assert np.array_equal(sets, theirs.predict_set(probs[new])[1][:, :, 0])

    u = np.random.RandomState(3).uniform(size=num_rows)
    scores = aps_scores(probs[given], u)[rows, labels[given]]
    theirs = conformalized(APSConformityScore())
    np.testing.assert_allclose(theirs._mapie_classifier.conformity_scores_[:, 0], scores)


def test_aps_and_raps_by_hand():
    p, u = [[0.1, 0.6, 0.3]], [0.25]
    expected = [[0.9 + 0.075, 0.45, 0.6 + 0.225]]
    np.testing.assert_allclose(aps_scores(p, u), expected)
    np.testing.assert_allclose(
        aps_scores(p, u, penalty=0.5, free_ranks=1), np.add(expected, [[1.0, 0, 0.5]])
    )
    np.testing.assert_allclose(aps_scores([[0.5, 0.5]], [0.5]), [[0.25, 0.75]])  # class order


def test_sets_have_no_holes():
    _, probs = classes(500)
    sets = aps_scores(probs, row_uniforms(probs)) <= 0.8
    sizes = sets.sum(1)
    ranked = np.take_along_axis(sets, np.argsort(-probs, axis=1, kind="stable"), axis=1)
    assert all(row[:size].all() for row, size in zip(ranked, sizes))


def test_raps_penalty_makes_sets_smaller():
    labels, probs = classes(4000, num_classes=30)
    u = row_uniforms(probs)
    penalty, free_ranks = choose_raps_penalty(labels[:2000], probs[:2000], u[:2000])
    assert penalty > 0
    assert 1 <= free_ranks <= 30

    def size(penalty, free_ranks):
        scores = aps_scores(probs, u, penalty, free_ranks)
        quantile = conformal_quantile(scores[np.arange(2000), labels[:2000]])
        return (scores[2000:] <= quantile).sum(1).mean()

    assert size(penalty, free_ranks) < size(0.0, 0)


def test_row_uniforms():
    _, probs = classes(20_000)
    u = row_uniforms(probs, seed=1)
    assert kstest(u, "uniform").pvalue > 1e-7
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 5.5 / math.sqrt(20_000)
    assert abs(np.corrcoef(u, probs[:, 0])[0, 1]) < 5.5 / math.sqrt(20_000)
    assert abs(np.corrcoef(u, row_uniforms(probs, seed=2))[0, 1]) < 5.5 / math.sqrt(20_000)
    assert np.array_equal(row_uniforms(probs[5:7], seed=1), u[5:7])
    assert len(np.unique(row_uniforms(np.roll(probs[:1], 1) + np.zeros((2, 1))))) == 1
    assert row_uniforms([[0.0, 1.0]]) == row_uniforms([[-0.0, 1.0]])
    assert row_uniforms([[1.0, 0.0]]) != row_uniforms([[0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformal_quantile([0.1, np.nan]), "without NaN for `scores`"),
        (lambda: conformal_quantile(0.1), "Expected scores"),
        (lambda: conformal_quantile([0.1], 1.0), "for `coverage`"),
        (lambda: conformal_quantile([0.1], np.nan), "for `coverage`"),
        (lambda: class_conditional_quantiles([0.1, 0.2], [0, 2], 2), r"in \[0, 2\).*for `y_true`"),
        (lambda: class_conditional_quantiles([0.1, 0.2], [0, -1], 2), "for `y_true`"),
        (lambda: class_conditional_quantiles([0.1, 0.2], [0], 2), "for `y_true`"),
        (lambda: lac_scores([[2.0, -1.0]]), "Expected probabilities"),
        (lambda: lac_scores([[0.5]]), "at least two classes"),
        (lambda: lac_scores([[np.nan, 1.0]]), "Expected probabilities"),
        (lambda: aps_scores([[0.5, 0.5]], [[0.1, 0.2]]), "for `u`"),
        (lambda: aps_scores([[0.5, 0.5]], [np.nan]), "for `u`"),
        (lambda: aps_scores([[0.5, 0.5]], [0.5], penalty=-0.1), "`penalty` and `free_ranks`"),
        (lambda: row_uniforms([0.5, 0.5]), r"Expected \(N, K\) for `probs`"),
        (lambda: choose_raps_penalty([2], [[0.5, 0.5]], [0.5]), "Expected labels"),
        (lambda: normalized_scores([1.0], [0.0], [0.0]), "positive standard deviations"),
        (lambda: normalized_scores([1.0], [[0.0]], [[1.0]]), "arrays of the same shape"),
        (lambda: normalized_scores([np.nan], [0.0], [1.0]), "for `y_true`"),
        (lambda: cqr_scores([1.0], [-np.inf], [1.0]), "for `lower`"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
