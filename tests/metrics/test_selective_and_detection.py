"""Metrics that rank examples, against scikit-learn, loops and hand-computed cases with ties."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from tfp_bayes import metrics

TOY = [0, 0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.5]  # errors and uncertainties


def cases():
    rng = np.random.default_rng(0)
    for num_rows in (2, 7, 60, 300):
        for levels in (3, 10, 10**9):  # few levels give many ties
            errors = rng.random(num_rows) < 0.3
            errors[:2] = 0, 1
            yield errors, rng.integers(0, levels, num_rows) / levels + 0.1 * errors.round()


CASES = list(cases())


def test_three_conventions_of_the_area_under_the_risk_coverage_curve():
    errors, uncertainty = TOY
    assert metrics.aurc(errors, uncertainty) == pytest.approx(0.1967, abs=5e-5)
    curve = metrics.retention_curve(errors, uncertainty)
    trapezoids = np.trapezoid(1 - curve.accuracy, curve.retained)
    assert trapezoids == pytest.approx(0.1567, abs=5e-5)  # fd-shifts
    assert trapezoids / (1 - 1 / 5) == pytest.approx(0.1958, abs=5e-5)  # torch-uncertainty
    assert metrics.aurc(errors, uncertainty) - 0.4 / 10 == pytest.approx(trapezoids)


@pytest.mark.parametrize(("errors", "uncertainty"), CASES)
def test_areas_against_loops(errors, uncertainty):
    num_rows = len(errors)
    risks = [errors[uncertainty <= u].mean() for u in uncertainty]
    assert metrics.aurc(errors, uncertainty) == pytest.approx(np.mean(risks), abs=1e-12)
    perfect = metrics.aurc(errors, errors + 0.001 * np.arange(num_rows) / num_rows)
    expected = np.mean(risks) - perfect
    assert metrics.excess_aurc(errors, uncertainty) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("errors", "uncertainty"), CASES)
def test_generalized_area_by_its_identity_with_auroc(errors, uncertainty):
    auroc = roc_auc_score(errors, uncertainty)
    assert metrics.error_auroc(errors, uncertainty) == pytest.approx(auroc, abs=1e-12)
    a = 1 - errors.mean()
    expected = (1 - auroc) * a * (1 - a) + (1 - a) ** 2 / 2
    assert metrics.augrc(errors, uncertainty) == pytest.approx(expected, abs=1e-12)


def test_a_limit_of_the_perfect_area():
    errors = np.arange(100_000) >= 80_000
    perfect = metrics.aurc(errors, np.arange(100_000))
    assert metrics.excess_aurc(errors, np.arange(100_000)) == pytest.approx(0, abs=1e-12)
    assert perfect == pytest.approx(0.2 + 0.8 * np.log(0.8), abs=1e-5)


def test_order_of_rows_does_not_matter():
    rng = np.random.default_rng(1)
    errors, uncertainty = CASES[9]
    names = ("aurc", "excess_aurc", "augrc", "error_auroc")
    expected = [getattr(metrics, name)(errors, uncertainty) for name in names]
    order = rng.permutation(len(errors))
    actual = [getattr(metrics, name)(errors[order], uncertainty[order]) for name in names]
    assert actual == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("wrong", [0, 1])
def test_all_right_all_wrong_and_one_example(wrong):
    for num_rows in (1, 6):
        errors, uncertainty = [wrong] * num_rows, np.linspace(0, 1, num_rows)
        assert metrics.aurc(errors, uncertainty) == wrong
        assert metrics.excess_aurc(errors, uncertainty) == 0
        assert metrics.augrc(errors, uncertainty) == wrong / 2
        assert metrics.coverage_at_risk(errors, uncertainty, 0.1) == 1 - wrong
        assert metrics.accuracy_at_coverage(errors, uncertainty, 0.5) == 1 - wrong
        with pytest.raises(ValueError, match=r"right and wrong predictions.*Hint: augrc"):
            metrics.error_auroc(errors, uncertainty)


def test_retention_curve_by_hand():
    curve = metrics.retention_curve(*TOY)
    np.testing.assert_allclose(curve.retained, [0.2, 0.4, 0.6, 0.8, 1])
    np.testing.assert_allclose(curve.accuracy, [1, 1, 2 / 3, 3 / 4, 3 / 5])
    np.testing.assert_allclose(curve.accuracy_with_oracle, [1, 1, 0.8, 0.8, 0.6])


def test_thresholds_by_hand():
    errors, uncertainty = [0, 1, 0, 0, 1], [0.1, 0.2, 0.3, 0.3, 0.4]  # risks 0, 1/2, 1/4, 2/5
    at_coverage = [
        metrics.accuracy_at_coverage(errors, uncertainty, c) for c in (0.01, 0.2, 0.4, 0.6, 0.8, 1)
    ]
    np.testing.assert_allclose(at_coverage, [1, 1, 0.5, 0.75, 0.75, 0.6])  # ties are kept together
    at_risk = [metrics.coverage_at_risk(errors, uncertainty, r) for r in (0, 0.24, 0.25, 0.4)]
    np.testing.assert_allclose(at_risk, [0.2, 0.2, 0.8, 1])
    assert metrics.coverage_at_risk([1, 0], [0.1, 0.2], 0.3) == 0
    # Rounding errors in 1 - 0.7 and 1 - 0.9 must not matter.
    ten = np.arange(10)
    assert metrics.accuracy_at_coverage(ten == 2, ten, 1 - 0.7) == pytest.approx(2 / 3)
    assert metrics.coverage_at_risk(ten == 2, ten, 1 - 0.9) == 1


@pytest.mark.parametrize(
    ("errors", "uncertainty", "message"),
    [
        ([0, 1], [0.1, np.nan], "`uncertainty`. Received: 1 of 2 are NaN"),
        ([0, 1], [[0.1], [0.2]], r"`uncertainty`. Received: float64 of shape \(2, 1\)"),
        ([], [], "at least one number"),
        ([0, 1, 0], [0.1, 0.2], "0 or 1 for each of 2 examples"),
        ([0, 2], [0.1, 0.2], r"Hint: errors = p.mean.argmax"),
        ([0.0, np.nan], [0.1, 0.2], "Expected 0 or 1"),
    ],
)
def test_selective_metrics_refuse(errors, uncertainty, message):
    for name in ("aurc", "excess_aurc", "augrc", "error_auroc", "retention_curve"):
        with pytest.raises(ValueError, match=message):
            getattr(metrics, name)(errors, uncertainty)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_shares_are_refused(share):
    with pytest.raises(ValueError, match="`coverage`"):
        metrics.accuracy_at_coverage(*TOY, share)
    if share != 0:
        with pytest.raises(ValueError, match="`risk`"):
            metrics.coverage_at_risk(*TOY, share)


@pytest.mark.parametrize(("is_out", "score"), CASES)
def test_detection_equals_scikit_learn(is_out, score):
    familiar, other = score[~is_out], score[is_out]
    assert metrics.auroc(familiar, other) == pytest.approx(roc_auc_score(is_out, score))
    expected = average_precision_score(is_out, score)
    assert metrics.aupr_out(familiar, other) == pytest.approx(expected, abs=1e-12)
    expected = average_precision_score(~is_out, -score)
    assert metrics.aupr_in(familiar, other) == pytest.approx(expected, abs=1e-12)
    fpr, tpr, _ = roc_curve(is_out, score, drop_intermediate=False)
    for wanted in (0.5, 0.95):
        expected = fpr[np.flatnonzero(tpr >= wanted)[0]]
        assert metrics.fpr_at_tpr(familiar, other, wanted) == pytest.approx(expected)


def test_the_convention_matters_where_it_does():
    """With in-distribution as positive, the AUROC is the same and the FPR differs."""
    familiar, other = [0.1, 0.2, 0.3, 0.35], [0.25, 0.7, 0.8, 0.9]
    assert metrics.auroc(familiar, other) == metrics.auroc(-np.array(other), -np.array(familiar))
    assert metrics.fpr_at_tpr(familiar, other) == 0.5
    assert metrics.fpr_at_tpr(-np.array(other), -np.array(familiar)) == 0.25


def test_infinite_scores_are_ranked():
    assert metrics.auroc([-np.inf, 0.0], [np.inf, np.inf]) == 1
    assert metrics.auroc([np.inf], [np.inf]) == 0.5
    assert metrics.fpr_at_tpr([np.inf, 0.0], [np.inf, np.inf]) == 0.5


def test_detection_refuses():
    for name in ("auroc", "aupr_in", "aupr_out", "fpr_at_tpr"):
        metric = getattr(metrics, name)
        with pytest.raises(ValueError, match="`uncertainty_out`"):
            metric([0.1], [np.nan])
        with pytest.raises(ValueError, match="`uncertainty_in`"):
            metric([], [0.1])
    with pytest.raises(ValueError, match="tpr=95"):
        metrics.fpr_at_tpr([0.1], [0.2], tpr=95)
