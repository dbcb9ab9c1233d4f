"""Summaries and choices are the same for any partition of the rows, even with ties and NaN."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from tfp_bayes import metrics
from tfp_bayes.scale import choice
from tfp_bayes.scale.summary import Summary
from tfp_bayes.scale.sums import as_float, exact_sum

NUM_ROWS = 400


def partitions():
    rng = np.random.default_rng(0)
    yield [0, NUM_ROWS]
    yield list(range(NUM_ROWS + 1))
    for _ in range(5):
        yield [0, *np.sort(rng.integers(0, NUM_ROWS, 6)).tolist(), NUM_ROWS]


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(1)
    mean = rng.dirichlet(np.ones(4), NUM_ROWS).astype("float32")
    columns = {
        "score": (rng.integers(0, 9, NUM_ROWS) / 8).astype("float32"),  # many ties
        "predictive_entropy": rng.gamma(1.0, size=NUM_ROWS)
        * 10.0 ** rng.integers(-30, 30, NUM_ROWS),
        "expected_entropy": rng.normal(size=NUM_ROWS).astype("float32"),
        "mutual_information": rng.random(NUM_ROWS).astype("float32"),
        "predicted": mean.argmax(-1).astype("int32"),
        "mean": mean,
        "label": rng.integers(0, 4, NUM_ROWS),
    }
    columns["score"][rng.integers(0, NUM_ROWS, 9)] = np.nan
    columns["mutual_information"][3] = np.inf
    return columns


def part(columns, start, stop):
    return {name: values[start:stop] for name, values in columns.items()}


def test_sums_are_exact():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000) * 2.0 ** rng.integers(-1060, 900, 1000)
    values = np.concatenate([values, [5e-324, -5e-324, 5e-324, 0.0, 1e300, -1e300]])
    expected = sum(map(Fraction, values.tolist()))
    assert Fraction(exact_sum(values), 2**1126) == expected
    assert as_float(exact_sum(values)) == float(expected)
    assert exact_sum(values[:300]) + exact_sum(values[300:]) == exact_sum(values)
    assert exact_sum(np.zeros(0)) == 0


def test_summaries_do_not_depend_on_the_partition(columns):
    whole = Summary.of(columns).as_json()
    for edges in partitions():
        total = Summary()
        for start, stop in itertools.pairwise(edges):
            total += Summary.from_json(Summary.of(part(columns, start, stop)).as_json())
        assert total.as_json() == whole


def test_a_summary_is_that_of_the_metrics(columns):
    summary = Summary.of(columns)
    finite = np.isfinite(columns["score"]) & np.isfinite(columns["mutual_information"])
    assert (summary.num_rows, summary.num_non_finite) == (NUM_ROWS, (~finite).sum())
    y, p = columns["label"][finite], columns["mean"][finite].astype("float64")
    assert summary.nll == pytest.approx(metrics.nll(y, p), rel=1e-12)
    assert summary.accuracy == (p.argmax(-1) == y).mean()
    expected = metrics.expected_calibration_error(y, p)
    assert summary.expected_calibration_error == pytest.approx(expected, rel=1e-12)
    matrix = np.zeros((4, 4), int)
    np.add.at(matrix, (y, p.argmax(-1)), 1)
    assert np.array_equal(summary.confusion_matrix(4), matrix)
    values = columns["expected_entropy"][finite].astype("float64")
    assert summary.mean("expected_entropy") == pytest.approx(values.mean(), rel=1e-12)
    for q in (0.1, 0.5, 0.99):
        quantile = np.quantile(values, q, method="inverted_cdf")
        assert 0 < summary.quantile("expected_entropy", q) - quantile <= 1 / 64
    with pytest.raises(ValueError, match="name='mutual_informations'"):
        summary.mean("mutual_informations")
    with pytest.raises(ValueError, match="name='accuracy'"):
        summary.quantile("accuracy", 0.5)
    with pytest.raises(ValueError, match="probability=50"):
        summary.quantile("score", 50)
    assert np.isnan(Summary().mean("score"))
    assert np.isnan(Summary().nll)
    with pytest.raises(ValueError, match="num_classes=3"):
        summary.confusion_matrix(3)
    unlabeled = Summary.of({name: value for name, value in columns.items() if name != "label"})
    with pytest.raises(ValueError, match="Expected a pool with labels"):
        unlabeled.confusion_matrix(4)
    without_finite = Summary.of({name: value[~finite] for name, value in columns.items()})
    assert np.isnan([without_finite.nll, without_finite.accuracy]).all()
    assert not without_finite.confusion_matrix(4).any()


def blocks(scores, edges):
    for start, stop in itertools.pairwise(edges):
        yield np.arange(start, stop), scores[start:stop]


@pytest.mark.parametrize("size", [1, 7, 60, 1000])
@pytest.mark.parametrize("kind", ["top", "power", "softmax"])
def test_choices_do_not_depend_on_the_partition(columns, size, kind):
    def choose(edges):
        arguments = () if kind == "top" else (2.0, 3)
        return getattr(choice, kind)(blocks(columns["score"], edges), size, *arguments)

    first, *others = map(choose, partitions())
    for other in others:
        assert np.array_equal(first.rows, other.rows)
        assert np.array_equal(first.scores, other.scores)
    finite = np.flatnonzero(~np.isnan(columns["score"]))
    assert len(first.rows) == min(size, len(finite))
    assert len(set(first.rows.tolist())) == len(first.rows)
    assert np.array_equal(first.scores, columns["score"][first.rows])
    if kind == "top":
        order = finite[np.lexsort((finite, -columns["score"][finite]))]
        assert np.array_equal(first.rows, order[:size])
    if kind == "power" and size == 1000:  # rows with score 0 come last
        assert (np.diff((first.scores == 0).astype(int)) >= 0).all()


def test_draws_are_as_likely_as_they_say():
    scores = np.array([1.0, 2.0, 3.0, 0.0])
    edges, num_draws = [0, 2, 4], 4000
    for draw, weights in ((choice.power, scores), (choice.softmax, np.exp(scores))):
        rows = [draw(blocks(scores, edges), 1, 1.0, seed).rows[0] for seed in range(num_draws)]
        counts = np.bincount(rows, minlength=4)
        p = weights / weights.sum()
        z = (counts - num_draws * p) / np.sqrt(num_draws * p * (1 - p) + 1e-9)
        assert np.abs(z).max() < 5.5


def test_noise_is_gumbel_and_differs_by_row_and_seed():
    noise = choice.gumbel(np.arange(20_000), 0)
    assert scipy.stats.kstest(noise, scipy.stats.gumbel_r.cdf).pvalue > 1e-6
    other = choice.gumbel(np.arange(20_000), 1)
    assert abs(np.corrcoef(noise, other)[0, 1]) < 5.5 / np.sqrt(20_000)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 5.5 / np.sqrt(20_000)
    assert np.isfinite(choice.gumbel(np.arange(3), 2**64 - 1)).all()
