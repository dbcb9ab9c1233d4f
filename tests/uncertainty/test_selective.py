"""`SelectiveClassifier`: trusted labels meet the guaranteed error rate."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom, binomtest

import tfp_bayes
from tfp_bayes.uncertainty import SelectiveClassifier, risk_bound


class Given:
    """A predictor that returns its inputs as predictions."""

    likelihood = "categorical"

    def predict_uncertainty(self, x, num_samples, seed):
        entropy = -(x * np.log(x + 1e-12)).sum(1)
        return SimpleNamespace(mean=x, likelihood=self.likelihood, predictive_entropy=entropy)


def binary(num_rows, rng):
    """Calibrated confidences, uniform on [0.5, 1], and labels."""
    p = rng.uniform(0.5, 1, num_rows)
    return np.stack([p, 1 - p], 1), (rng.random(num_rows) > p).astype("int64")


def test_bound_equals_scipy_and_covers():
    for errors, trials in ((0, 10), (3, 50), (50, 50)):
        exact = binomtest(errors, trials, alternative="less").proportion_ci(0.95, "exact").high
        np.testing.assert_allclose(risk_bound(errors, trials), exact)
    assert risk_bound(0, 0) == 1
    misses = binom.pmf(np.arange(31), 30, 0.2) @ (risk_bound(np.arange(31), 30, 0.9) < 0.2)
    assert misses <= 0.1


@pytest.mark.parametrize(
    ("errors", "trials", "confidence", "message"),
    [
        (4, 3, 0.95, "for `errors`"),
        (-1, 3, 0.95, "for `errors`"),
        ([0, np.nan], 3, 0.95, "for `errors`"),
        (0.02, 100, 0.95, "Hint: pass counts, not rates"),
        (1, 3, 95, "for `confidence`"),
        (1, 3, np.nan, "for `confidence`"),
    ],
)
def test_bound_refuses(errors, trials, confidence, message):
    with pytest.raises(ValueError, match=message):
        risk_bound(errors, trials, confidence)


@pytest.mark.filterwarnings("ignore:No label is trusted")
@pytest.mark.parametrize("risk", [0.03, 0.1])
def test_the_risk_is_exceeded_as_seldom_as_promised(risk):
    """With uniform confidences, trusting p > c has the exact risk (1 - c) / 2."""
    rng, exceeded, coverage = np.random.default_rng(0), [], []
    for _ in range(1000):
        selective = SelectiveClassifier(Given())
        x, y = binary(300, rng)
        selective.fit(x, y, risk=risk, confidence=0.9)
        exceeded.append(min(selective.threshold, 0.5) / 2 > risk)
        coverage.append(selective.coverage)
    assert np.sum(exceeded) <= binom.ppf(1 - 1e-7, 1000, 0.1)
    if risk == 0.1:
        assert np.sum(exceeded) > 5  # the bound is not far too loose
        assert 0.09 < np.mean(coverage) < 0.4  # 0.4 is the coverage of the exact threshold


def test_no_threshold_is_tried_after_the_first_that_fails():
    """Choosing the largest threshold that passes among all would need a correction."""
    p, y = np.linspace(0.99, 0.51, 1050), np.zeros(1050, "int64")
    y[40:50] = 1  # 1 of 41 passes and 2 of 42 fails; 10 of all 1050 would pass again
    bounds = [
        binomtest(errors, trials, alternative="less").proportion_ci(0.9, "exact").high
        for errors, trials in ((1, 41), (2, 42), (10, 1050))
    ]
    assert [bound <= 0.1 for bound in bounds] == [True, False, True]
    x = np.stack([p, 1 - p], 1)
    selective = SelectiveClassifier(Given()).fit(x, y, risk=0.1, confidence=0.9)
    assert selective.coverage == 41 / 1050
    assert selective.risk == 1 / 41


def test_coverage_is_a_share_and_ties_stay_together():
    p = np.array([0.9, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6])
    x, y = np.stack([p, 1 - p], 1), np.zeros(10, "int64")
    y[4] = 1
    for wanted, share in ((0.5, 0.5), (0.45, 0.2), (0.6, 0.6), (0.9, 0.6), (1.0, 1.0)):
        selective = SelectiveClassifier(Given()).fit(x, y, coverage=wanted)
        labels, trusted, uncertainty = selective.predict(x)
        assert selective.coverage == trusted.mean() == share
        np.testing.assert_allclose(selective.risk, np.mean(labels[trusted] != y[trusted]))
        np.testing.assert_allclose(uncertainty, 1 - p)


def test_nothing_is_trusted_and_it_says_so(tmp_path):
    x, y = binary(20, np.random.default_rng(0))
    with pytest.warns(UserWarning, match="No label is trusted"):
        selective = SelectiveClassifier(Given()).fit(x, y, risk=0.01)
    assert not selective.predict(x).trusted.any()
    assert np.isnan(selective.risk)
    selective.save(tmp_path / "selective.json")
    loaded = SelectiveClassifier.load(tmp_path / "selective.json", Given())
    assert (loaded.threshold, loaded.coverage) == (-np.inf, 0)


def test_nan_is_not_trusted():
    x, y = binary(50, np.random.default_rng(0))
    selective = SelectiveClassifier(Given()).fit(x, y, coverage=1.0)
    x[3] = np.nan
    trusted = selective.predict(x).trusted
    assert not trusted[3]
    assert trusted.sum() == 49
    with pytest.raises(ValueError, match="Expected probabilities"):
        selective.fit(x, y, coverage=1.0)


def test_one_sigmoid_is_two_classes():
    x, y = binary(200, np.random.default_rng(0))
    one = Given()
    one.likelihood = "bernoulli"
    expected = SelectiveClassifier(Given()).fit(x, y, coverage=0.5).predict(x)
    found = SelectiveClassifier(one).fit(x[:, 1:], y, coverage=0.5).predict(x[:, 1:])
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.trusted, expected.trusted)


def test_a_model_saved_and_changed(tmp_path):
    model = tfp_bayes.BayesianMLP((4,), 3, hidden_units=(8,), seed=0)
    x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    selective = SelectiveClassifier(model, "mutual_information", num_samples=5)
    selective.fit(x, y, coverage=0.5)
    selective.save(tmp_path / "selective.json")
    loaded = SelectiveClassifier.load(tmp_path / "selective.json", model)
    for a, b in zip(loaded.predict(x), selective.predict(x)):
        np.testing.assert_array_equal(a, b)
    model.output_temperature.assign(2.0)
    reloaded = SelectiveClassifier.load(tmp_path / "selective.json", model)
    for each in (selective, reloaded):
        with pytest.raises(ValueError, match="other weights"):
            each.predict(x)


@pytest.mark.parametrize("score", ["predictive_entropy", "mutual_information"])
def test_the_score_asked_for_decides_on_samples_asked_for(score):
    """A predictor with two scores in opposite order, which records its arguments."""
    x, y = binary(50, np.random.default_rng(0))
    entropy, calls = np.linspace(0, 1, 50), []

    def predict_uncertainty(x, **settings):
        calls.append(settings)
        measures = {"predictive_entropy": entropy, "mutual_information": 1 - entropy}
        return SimpleNamespace(mean=x, likelihood="categorical", **measures)

    predictor = SimpleNamespace(predict_uncertainty=predict_uncertainty)
    selective = SelectiveClassifier(predictor, score, num_samples=7, seed=3)
    _, trusted, uncertainty = selective.fit(x, y, coverage=0.4).predict(x)
    expected = entropy if score == "predictive_entropy" else 1 - entropy
    np.testing.assert_array_equal(uncertainty, expected)
    np.testing.assert_array_equal(trusted, np.argsort(np.argsort(expected)) < 20)
    assert calls == [{"num_samples": 7, "seed": 3}] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: SelectiveClassifier(Given(), "entropy"), "for `score`"),
        (lambda x, y: SelectiveClassifier(Given()).predict(x), "not fitted"),
        (lambda x, y: SelectiveClassifier(Given()).save("here"), "not fitted"),
        (lambda x, y: SelectiveClassifier(Given()).fit(x, y), "one of `risk` and `coverage`"),
        (lambda x, y: SelectiveClassifier(Given()).fit(x, y, risk=0), "Expected probabilities for"),
        (
            lambda x, y: SelectiveClassifier(Given()).fit(x, y, coverage=80),
            "Expected probabilities",
        ),
        (lambda x, y: SelectiveClassifier(Given()).fit(x, y, risk=0.1, confidence=1), "confidence"),
        (lambda x, y: SelectiveClassifier(Given()).fit(x, y + 1, risk=0.1), "Expected labels in"),
        (lambda x, y: SelectiveClassifier(Given()).fit(x[:, None], y, risk=0.1), "one softmax"),
        (lambda x, y: SelectiveClassifier.load(__file__, Given()), "SelectiveClassifier.save"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(*binary(30, np.random.default_rng(0)))
