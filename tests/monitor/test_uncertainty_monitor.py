"""Rates of false alarms, detection of drift, and exact continuation from a saved state."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom, entropy

from tfp_bayes import metrics
from tfp_bayes.monitor import UncertaintyMonitor

RNG = np.random.default_rng(0)


def probabilities(n, sureness=12.0, rng=RNG):
    """Predictions of three classes; the most certain ones are exactly 1, as for real networks."""
    probs = rng.dirichlet([sureness, 1.0, 1.0], n)
    probs[probs[:, 0] > 0.95] = 1.0, 0.0, 0.0
    return probs


def alarms(windows):
    return [window.alarms for window in windows]


def false_alarms(alpha, sureness, repetitions=150, num_windows=200):
    """Counts monitors with an alarm in the first window of 100 rows, and in any window."""
    rng = np.random.default_rng(3)
    values = rng.gamma(2, size=(repetitions, 600 + num_windows * 100)).astype("float32")
    values[:, 600:] *= sureness
    first, ever = 0, 0
    for row in values:
        arrays = {"predictive_entropy": row[:600], "confidence": np.exp(-row[:600])}
        monitor = UncertaintyMonitor.from_reference(arrays, window=100, alpha=alpha)
        stream = {"predictive_entropy": row[600:], "confidence": np.exp(-row[600:])}
        raised = [bool(each.alarms) for each in monitor.update(stream)]
        first, ever = first + raised[0], ever + any(raised)
    return first, ever


def test_false_alarms_are_at_most_at_the_level_asked_for():
    first, ever = false_alarms(alpha=0.3, sureness=1.0)
    # The four tests are correlated and two are conservative, so there are fewer alarms, but some.
    assert binom.isf(1 - 1e-6, 150, 0.3 / 4) <= ever <= binom.isf(1e-6, 150, 0.3)
    assert 0 < first <= binom.isf(1e-6, 150, 0.15)


def test_power_rises_from_chance_with_the_drift():
    ever = [false_alarms(0.3, sureness, 40, 5)[1] for sureness in (1.0, 1.15, 1.4)]
    assert ever[0] <= binom.isf(1e-6, 40, 0.3)
    assert ever[0] < ever[1] < ever[2] == 40


@pytest.mark.parametrize("start", [0, 7, 120])
def test_an_alarm_within_two_windows_of_a_drift(start):
    monitor = UncertaintyMonitor.from_reference(probabilities(5000), window=300)
    assert alarms(monitor.update(probabilities(300 * start))) == [()] * start
    windows = monitor.update(probabilities(600, sureness=5.0))
    assert any(window.alarms for window in windows)
    assert windows[0].number == start + 1


@pytest.mark.parametrize("sizes", [[1], [7, 0, 250], [500]])
def test_a_stream_may_be_cut_anywhere(sizes):
    rng = np.random.default_rng(4)
    stream = np.r_[probabilities(600, rng=rng), probabilities(600, 4.0, rng)]
    stream[250] = np.nan
    reference = probabilities(2000, rng=rng)
    labels = rng.integers(0, 3, 1200)

    def windows_of(sizes):
        monitor = UncertaintyMonitor.from_reference(reference, window=100)
        windows, start, i = [], 0, 0
        while start < len(stream):
            rows = slice(start, start + sizes[i % len(sizes)])
            windows += monitor.update(stream[rows], labels[rows])
            start, i = rows.stop, i + 1
        return windows, monitor

    windows, monitor = windows_of(sizes)
    whole, expected = windows_of([1200])
    assert windows == whole
    assert [bool(each.alarms) for each in windows] == [False] * 2 + [True] + [False] * 3 + [
        True
    ] * 6
    np.testing.assert_allclose(monitor.calibration, expected.calibration, rtol=1e-11)


def test_the_order_of_rows_in_a_window_does_not_matter():
    reference, stream = probabilities(1000), probabilities(400, 8.0)
    first, second = (
        UncertaintyMonitor.from_reference(reference, window=400).update(rows)
        for rows in (stream, RNG.permutation(stream))
    )
    assert first == second
    assert first[0].tests


def test_rounding_is_no_drift():
    # Machines round a certain softmax output to 1 or 1 - 1e-7; votes are multiples of 0.1.
    votes = RNG.multinomial(10, [0.9, 0.1], 3000) / 10
    monitor = UncertaintyMonitor.from_reference(votes[:2000], window=500)
    other = votes[2000:].astype("float32") * np.float32(1 - 1.2e-7)
    assert (other != votes[2000:]).any(-1).all()
    for test in monitor.update(other)[0].tests:
        assert test.p_value > 1e-3
    assert monitor.num_windows == 2


def test_state_goes_on_to_the_same_bits(tmp_path):
    window = np.int64(100)  # JSON does not take it
    monitor = UncertaintyMonitor.from_reference(probabilities(1000), window=window, half_life=50.5)
    probs = probabilities(330)
    labels = RNG.integers(0, 3, 330)
    probs[3] = np.inf
    monitor.update(probs[:130], labels[:130])
    monitor.save(tmp_path / "new" / "monitor.json")
    again = UncertaintyMonitor.load(tmp_path / "new" / "monitor.json")
    assert again.to_json() == monitor.to_json()
    assert again.update(probs[130:], labels[130:]) == monitor.update(probs[130:], labels[130:])
    assert again.to_json() == monitor.to_json()
    assert again.calibration == monitor.calibration
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["monitor.json"]


def test_memory_is_bounded():
    monitor = UncertaintyMonitor.from_reference(probabilities(1000), window=100)
    size = len(monitor.to_json())
    for _ in range(3):
        monitor.update(probabilities(20_050), np.zeros(20_050, int))
    assert len(monitor.to_json()) < size + 3000


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "null"])
def test_another_state_is_refused(text):
    with pytest.raises(ValueError, match="Expected a result of `to_json`"):
        UncertaintyMonitor.from_json(text)
    broken = json.loads(UncertaintyMonitor.from_reference(probabilities(500)).to_json())
    del broken["measures"]["confidence"]["counts"]
    with pytest.raises(ValueError, match="KeyError"):
        UncertaintyMonitor.from_json(json.dumps(broken))


def test_rows_that_are_not_finite_are_counted_and_an_alarm():
    monitor = UncertaintyMonitor.from_reference(probabilities(1000), window=100)
    probs = probabilities(300)
    probs[5, 1], probs[[100, 101], 0], probs[200:260] = np.nan, np.inf, np.nan
    windows = monitor.update(probs, np.zeros(300, int))
    assert [window.num_invalid for window in windows] == [1, 2, 60]
    assert windows[1].alarms == ("2 of 100 predictions are not finite",)
    assert [len(window.tests) for window in windows] == [4, 4, 0]
    assert monitor.calibration.num_invalid == 63


def test_calibration_is_that_of_the_metrics():
    probs, labels = RNG.dirichlet([3, 1, 1], 400), RNG.integers(0, 3, 400)
    monitor = UncertaintyMonitor.from_reference(probs, window=400, half_life=1e15)
    assert np.isnan(monitor.calibration.accuracy)
    monitor.update(probs[:150], labels[:150])
    monitor.add_labels({"mean": probs[150:]}, labels[150:, None])
    result = monitor.calibration
    assert result.num_effective == pytest.approx(400)
    assert result.accuracy == pytest.approx(metrics.accuracy(labels, probs))
    assert result.confidence == pytest.approx(probs.max(-1).mean())
    assert result.nll == pytest.approx(metrics.nll(labels, probs))
    assert result.ece == pytest.approx(metrics.expected_calibration_error(labels, probs))


def test_old_labels_are_forgotten():
    probs = np.tile([0.8, 0.2], (400, 1))
    monitor = UncertaintyMonitor.from_reference(probabilities(500), half_life=100)
    monitor.add_labels(probs, np.zeros(400, int))
    monitor.add_labels(probs[:100], np.ones(100, int))
    # The last hundred rows have half of the total weight, up to the finite length of the stream.
    assert monitor.calibration.accuracy == pytest.approx((0.5 - 0.5**5) / (1 - 0.5**5), rel=1e-9)


def test_a_prediction_and_a_served_answer_are_read_alike():
    probs = probabilities(700)
    information = RNG.random(700)
    served = {
        "mean": probs,
        "predictive_entropy": entropy(probs, axis=-1),
        "mutual_information": information,
        "epistemic_variance": probs,
    }
    prediction = SimpleNamespace(**served, likelihood="categorical")
    states = [UncertaintyMonitor.from_reference(each).to_json() for each in (served, prediction)]
    assert states[0] == states[1]
    assert list(json.loads(states[0])["measures"]) == [
        "predictive_entropy",
        "confidence",
        "mutual_information",
    ]
    only_mean = UncertaintyMonitor.from_reference(probs)
    assert [test.measure for test in only_mean.update(served)[0].tests[::2]] == [
        "predictive_entropy",
        "confidence",
    ]


def test_of_a_regression_entropies_are_watched():
    entropies = RNG.normal(size=600)  # differential entropies may be negative
    arrays = {"predictive_entropy": entropies, "mutual_information": RNG.random(600)}
    prediction = SimpleNamespace(mean=RNG.normal(size=(600, 1)), likelihood="normal", **arrays)
    monitor = UncertaintyMonitor.from_reference(prediction)
    before = monitor.to_json()
    with pytest.raises(ValueError, match="only entropies are monitored"):
        monitor.update(prediction, np.zeros(600, int))
    assert monitor.to_json() == before
    assert len(monitor.update(prediction)[0].tests) == 4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"window": 30}, "at least 40 for `window`"),
        ({"window": 2.5}, "integer"),
        ({"window": 600}, "at least `window`=600 rows"),
        ({"num_bins": 1}, "`num_bins`"),
        ({"alpha": 1}, "`alpha`"),
        ({"alpha": float("nan")}, "`alpha`"),
        ({"half_life": 0}, "`half_life`"),
        ({"prediction": np.ones((500, 3)) / 3}, "nearly all equal"),
        ({"prediction": np.full((500, 3), np.nan)}, "finite predictive_entropy"),
        ({"prediction": RNG.normal(size=(500, 3))}, "probabilities over the last axis"),
        ({"prediction": RNG.random((500, 1))}, "with K of at least 2"),
        ({"prediction": RNG.dirichlet([1, 1], (500, 4))}, "averages over an example"),
        ({"prediction": {"entropy": RNG.random(500)}}, "Received: ..entropy"),
        ({"prediction": {"confidence": RNG.random(500) * 9}}, "from 0 to 1 for `confidence`"),
        ({"prediction": {"mutual_information": -RNG.random(500)}}, "`mutual_information`"),
        ({"prediction": {"predictive_entropy": RNG.random((500, 8))}}, "not independent"),
        (
            {"prediction": {"predictive_entropy": RNG.random(500), "confidence": RNG.random(9)}},
            "one number per example",
        ),
    ],
)
def test_references_that_cannot_serve_are_refused(change, match):
    arguments = {"prediction": probabilities(500), **change}
    with pytest.raises(ValueError, match=match):
        UncertaintyMonitor.from_reference(arguments.pop("prediction"), **arguments)


def test_a_stream_of_another_kind_is_refused():
    monitor = UncertaintyMonitor.from_reference(probabilities(500))
    state = monitor.to_json()
    for prediction, labels in (
        ({"predictive_entropy": RNG.random(10)}, None),
        (probabilities(10), np.zeros(9, int)),
        (probabilities(10), np.full(10, 3)),
        (probabilities(10), np.zeros(10)),
        (RNG.normal(size=(10, 3)), None),
    ):
        with pytest.raises(ValueError, match=r"Expected .* Received: .* Hint: "):
            monitor.update(prediction, labels)
    assert monitor.to_json() == state
    assert monitor.update(np.zeros((0, 3)), []) == []


def test_importing_it_starts_no_tensorflow():
    code = (
        "import sys\n"
        "sys.argv = ['/bin/tfp-bayes']\n"
        "import tfp_bayes.monitor\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
