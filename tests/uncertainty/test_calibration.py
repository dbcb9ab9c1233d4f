"""Temperature, vector scaling and isotonic regression against scikit-learn and SciPy."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression

from tfp_bayes import metrics
from tfp_bayes.uncertainty import Isotonic, VectorScaling, apply_temperature, fit_temperature


class Given(ClassifierMixin, BaseEstimator):
    """A classifier that returns its inputs as probabilities."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return self.classes_[x.argmax(1)]


def drawn(rows=1500, num_classes=4, seed=0):
    """Labels, and probabilities that are overconfident and have the wrong class frequencies."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, num_classes)) * 2
    truth = softmax(logits * 0.5 + np.linspace(-0.5, 0.5, num_classes), axis=1)
    return (truth.cumsum(1) > rng.random((rows, 1))).argmax(1), softmax(logits, axis=1)


def scikit(y, p, method, weights=None):
    given = FrozenEstimator(Given().fit(p, y))
    return CalibratedClassifierCV(given, method=method).fit(p, y, sample_weight=weights)


@pytest.fixture(scope="module")
def case():
    y, p = drawn()
    return y, p, np.random.default_rng(1).integers(0, 4, len(y)).astype("float64")


@pytest.mark.parametrize("weighted", [False, True])
def test_temperature_equals_scikit_learn(case, weighted):
    y, p, weights = case
    weights = weights if weighted else None
    ours = apply_temperature(p, fit_temperature(y, p, weights))
    np.testing.assert_allclose(
        ours, scikit(y, p, "temperature", weights).predict_proba(p), atol=2e-5
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_isotonic_equals_scikit_learn_but_for_impossible_classes(case, weighted):
    y, p, weights = case
    weights = weights if weighted else None
    fitted = Isotonic.fit(y, p, weights)
    number = len(y) if weights is None else (weights > 0).sum()
    theirs = scikit(y, p, "isotonic", weights).calibrated_classifiers_[0].calibrators
    raw = np.stack([each.predict(p[:, k]) for k, each in enumerate(theirs)], axis=1)
    raised = np.clip(raw, 1 / (number + 2), 1 - 1 / (number + 2))
    rows = slice(None) if weights is None else weights > 0  # at knots or between equal ones
    expected = raised / raised.sum(1, keepdims=True)
    np.testing.assert_allclose(fitted(p)[rows], expected[rows], atol=1e-6)
    assert raw.min() == 0 < fitted(p).min()
    new = drawn(seed=5)[1]
    bounds = {"y_min": 1 / (number + 2), "y_max": 1 - 1 / (number + 2), "out_of_bounds": "clip"}
    curves = [
        IsotonicRegression(**bounds).fit(p[:, k], y == k, weights).predict(new[:, k])
        for k in range(4)
    ]
    expected = np.transpose(curves) / np.sum(curves, axis=0)[:, None]
    np.testing.assert_allclose(fitted(new), expected, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_vector_scaling_is_the_minimum(case, weighted):
    y, p, weights = case
    weights = weights / weights.mean() if weighted else np.ones(len(y))

    def objective(v):
        scale, offset = v[:4], v[4:]
        log_q = log_softmax(scale * np.log(p) + offset, axis=1)[np.arange(len(y)), y]
        penalty = ((scale - 1) ** 2).sum() + (offset**2).sum()
        return -(weights * log_q).sum() + 3.0 / 2 * penalty

    found = VectorScaling.fit(y, p, weights if weighted else None, l2=3.0)
    best = minimize(objective, np.repeat([1.0, 0.0], 4), method="BFGS", options={"gtol": 1e-4})
    np.testing.assert_allclose([*found.scale, *found.offset], best.x, atol=1e-4)
    assert objective(np.r_[found.scale, found.offset]) <= objective(best.x) + 1e-6


def test_each_helps_on_other_examples_and_vector_scaling_knows_the_cause(case):
    y, p, _ = case
    y_test, p_test = drawn(20_000, seed=9)
    before = metrics.nll(y_test, p_test)
    temperature = metrics.nll(y_test, apply_temperature(p_test, fit_temperature(y, p)))
    vector = metrics.nll(y_test, VectorScaling.fit(y, p)(p_test))
    isotonic = metrics.nll(y_test, Isotonic.fit(y, p)(p_test))
    assert vector < temperature - 0.04 < before - 0.2
    assert vector < isotonic < temperature


def test_two_classes_mirror_each_other(case):
    y, p, _ = case
    y, p = (y > 1).astype("int64"), np.stack([p[:, :2].sum(1), p[:, 2:].sum(1)], axis=1)
    for fit in (VectorScaling.fit, Isotonic.fit):
        np.testing.assert_allclose(
            fit(y, p)(p), fit(1 - y, p[:, ::-1])(p[:, ::-1])[:, ::-1], atol=1e-6
        )


@pytest.mark.parametrize("fit", [VectorScaling.fit, Isotonic.fit])
def test_certain_probabilities(fit):
    """Wrong probabilities of 0 and 1 in training still give finite losses on other examples."""
    y = np.arange(1200) % 3
    p = np.eye(3)[np.where(np.arange(1200) % 10 == 0, (y + 1) % 3, y)]
    calibrated = fit(y, p)
    q = calibrated(np.vstack([np.eye(3), np.full((1, 3), 1 / 3)]))
    assert np.isfinite(np.log(q)).all()
    np.testing.assert_allclose(q.sum(1), 1)
    np.testing.assert_allclose(np.diag(q), 0.9, atol=0.02)


def test_few_examples_hardly_move_the_vector():
    y, p = drawn(12, seed=3)
    y[:4] = range(4)
    found = VectorScaling.fit(y, p)
    assert np.abs(found.scale - 1).max() < 1
    assert np.abs(found.offset).max() < 2
    assert np.abs(VectorScaling.fit(y, p, l2=1e6).scale - 1).max() < 1e-4


@pytest.mark.parametrize(
    ("fit", "change", "message"),
    [
        (
            VectorScaling.fit,
            {"y_true": np.zeros(1500, "int64")},
            r"no example of the classes \[1, 2, 3",
        ),
        (Isotonic.fit, {"y_true": np.arange(1500) % 3}, r"no example of the classes \[3\]"),
        (VectorScaling.fit, {"sample_weight": -np.ones(1500)}, "at least 0, not all 0"),
        (Isotonic.fit, {"sample_weight": np.ones((1500, 1))}, "Expected 1500 numbers"),
        (Isotonic.fit, {"sample_weight": np.zeros(1500)}, "not all 0"),
        (Isotonic.fit, {"sample_weight": np.arange(1500) % 2}, "Received: 750"),
        (fit_temperature, {"sample_weight": np.full(1500, np.nan)}, "for `sample_weight`"),
        (VectorScaling.fit, {"l2": 0.0}, "positive, finite number for `l2`"),
        (VectorScaling.fit, {"probs": np.full((1500, 4), 0.5)}, "Expected probabilities"),
    ],
)
def test_refuses(case, fit, change, message):
    y, p, _ = case
    with pytest.raises(ValueError, match=message):
        fit(**{"y_true": y, "probs": p, **change})


@pytest.mark.parametrize(
    "calibration",
    [VectorScaling(np.ones(4), np.zeros(4)), Isotonic(np.eye(4, 2), np.eye(4, 2))],
    ids=lambda each: type(each).__name__,
)
def test_other_numbers_of_classes_are_refused(calibration):
    for probs in (np.full((5, 2), 1 / 2), np.full((4, 5), 1 / 5)):
        with pytest.raises(ValueError, match=r"Expected 4 classes.*for `probs`"):
            calibration(probs)
