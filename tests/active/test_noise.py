"""Noisy labels: oracles, filters and the treatment of rejected answers."""

import functools

import keras
import numpy as np
import pytest
from learners import arranged
from networks import bayesian_mlp
from scipy import stats

from tfp_bayes import BayesianBasisRegression
from tfp_bayes.active import ActiveLearner, filter_quality, filters, oracles
from tfp_bayes.active.built_in import FILTERS
from tfp_bayes.active.filters import Answers
from tfp_bayes.uncertainty import fit_temperature

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 20_000)
ALL = np.arange(len(LABELS))


# Oracles.


def test_noise_has_the_given_rate():
    answers = oracles.NoisyOracle(LABELS, 0.2, seed=3)(ALL)
    wrong = answers != LABELS
    assert stats.binomtest(int(wrong.sum()), len(LABELS), 0.2).pvalue > 1e-3
    # Uniform over the nine other classes.
    shift = (answers - LABELS)[wrong] % 10
    assert stats.chisquare(np.bincount(shift, minlength=10)[1:]).pvalue > 1e-3


def test_answers_do_not_depend_on_what_else_is_asked():
    oracle = oracles.NoisyOracle(LABELS, 0.5, seed=1)
    np.testing.assert_array_equal(oracle(ALL)[[7, 5]], oracle(np.array([7, 5])))
    np.testing.assert_array_equal(oracle(ALL, again=1), oracle(ALL))
    other = oracles.NoisyOracle(LABELS, 0.5, seed=1, resample=True)
    np.testing.assert_array_equal(other(ALL), oracle(ALL))
    # Two independent draws agree if both are right or both are wrong in the same way.
    for first in (other, oracles.NoisyOracle(LABELS, 0.5, seed=2)):
        agree = np.mean(other(ALL, again=1) == first(ALL))
        assert abs(agree - (0.25 + 9 * (0.5 / 9) ** 2)) < 4 * np.sqrt(0.25 / len(LABELS))


def test_confusion():
    confusion = np.eye(10)
    confusion[4] = 0
    confusion[4, 9] = 1
    answers = oracles.NoisyOracle(LABELS, confusion=confusion)(ALL)
    assert (answers[LABELS == 4] == 9).all()
    assert (answers[LABELS != 4] == LABELS[LABELS != 4]).all()
    assert (oracles.NoisyOracle(LABELS, 0.0)(ALL) == LABELS).all()
    assert (oracles.NoisyOracle(LABELS, 1.0)(ALL) != LABELS).all()


@pytest.mark.parametrize(
    "arguments",
    [{}, {"rate": 1.2}, {"rate": 0.1, "confusion": np.eye(10)}, {"confusion": np.ones((10, 10))}],
)
def test_noise_refused(arguments):
    with pytest.raises(ValueError, match=r"(?s)Expected .*Received: .*Hint: "):
        oracles.NoisyOracle(LABELS, **arguments)


@pytest.mark.parametrize(
    "labels", [[0, -1], [0.0, 1.0], [0, 2], [False, True], np.eye(2, dtype=int)]
)
def test_noise_of_other_labels_is_refused(labels):
    with pytest.raises(ValueError, match="for `labels`"):
        oracles.NoisyOracle(labels, 0.2, num_classes=2)


def test_noise_of_a_column_of_labels():
    column = oracles.NoisyOracle(LABELS[:, None], 0.3)
    np.testing.assert_array_equal(column(ALL), oracles.NoisyOracle(LABELS, 0.3)(ALL))


def test_human_is_asked_until_the_answer_is_a_class(tmp_path):
    typed = iter(["bird", "dog", " 0 "])
    oracle = oracles.HumanOracle(
        np.zeros((4, 8, 8, 3)), ["cat", "dog"], tmp_path, lambda _: next(typed)
    )
    assert oracle(np.array([1, 3])).tolist() == [1, 0]
    assert (tmp_path / "ask.png").stat().st_size > 500


def test_names_that_are_numbers_are_names(tmp_path):
    """If the classes are called "1", "2" and "3", the answer 2 means the second."""
    images = np.zeros((1, 8, 8, 1))
    for names, answer, label in (
        (["1", "2", "3"], "2", 1),
        (["1", "2", "3"], "3", 2),
        ([str(k) for k in range(10)], "7", 7),
        (["cat", "dog"], "1", 1),
    ):
        oracle = oracles.HumanOracle(images, names, tmp_path, lambda _, answer=answer: answer)
        assert oracle(np.array([0])).tolist() == [label]
    typed = iter(["0", "1"])  # no class is called 0
    oracle = oracles.HumanOracle(images, ["1", "2"], tmp_path, lambda _: next(typed))
    assert oracle(np.array([0])).tolist() == [0]
    with pytest.raises(ValueError, match="Expected different names"):
        oracles.HumanOracle(images, ["cat", "cat"])


# Filters.


def answers(probabilities, labels, earlier=(), wrong=None):
    return Answers(np.asarray(probabilities), np.asarray(labels), np.asarray(earlier), wrong, 0)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("cost_ratio", [1.0, 4.0])
def test_bayes_threshold_minimizes_expected_cost(rate, cost_ratio):
    """An answer of probability p is right with odds (1 - rate) p : rate (1 - p) / (K - 1)."""
    p, num_classes = np.linspace(1e-4, 1 - 1e-4, 9999), 10
    wrong, right = rate / (num_classes - 1) * (1 - p), (1 - rate) * p
    keep = cost_ratio * wrong <= right
    tau = filters.bayes_threshold(rate, num_classes, cost_ratio)
    assert tau == pytest.approx(p[keep].min(), abs=2e-4)
    close = np.array([0.9, 1.1])[:, None] * p[keep].min()
    rows = np.concatenate([close, np.repeat((1 - close) / (num_classes - 1), 9, axis=1)], axis=1)
    earlier = np.where(np.arange(10_000) < 10_000 * rate, 1e-9, 1 - 1e-9)  # as many were wrong
    made = answers(rows, [0, 0], earlier)
    for each in (filters.BayesThreshold(rate, cost_ratio), filters.DynamicThreshold(cost_ratio)):
        assert each.keep(made).tolist() == [False, True]


def test_thresholds_of_the_study():
    assert filters.bayes_threshold(0.2, 10) == pytest.approx(0.027, abs=5e-4)
    assert filters.bayes_threshold(0.2, 10, 4) == pytest.approx(0.1)
    assert filters.bayes_threshold(0.2, 10, 12) == pytest.approx(0.25)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
def test_noise_rate_is_estimated(rate):
    """The model is calibrated, and its answers have noise of the given rate."""
    p = RNG.dirichlet(0.05 * np.ones(10), size=3000)
    truth = (RNG.random((3000, 1)) >= p.cumsum(1)).sum(1).clip(max=9)
    given = oracles.NoisyOracle(truth, rate, num_classes=10)(np.arange(3000))
    found = filters.estimate_noise_rate(p[np.arange(3000), given], 10)
    assert abs(found - rate) < 0.03
    assert filters.estimate_noise_rate(np.array([]), 10) == pytest.approx(0.1)


def test_each_filter_keeps_the_expected_answers():
    p = np.array([[0.9, 0.1, 0.0], [0.02, 0.97, 0.01], [0.3, 0.3, 0.4], [0.001, 0.001, 0.998]])
    labels = [0, 0, 2, 0]
    made = answers(p, labels, wrong=np.array([False, True, False, True]))
    keep = {name: filters.get(name).keep(made).tolist() for name in FILTERS}
    assert keep["static_threshold"] == [True, False, True, False]
    assert keep["oracle"] == [True, False, True, False]
    assert keep["bayes_threshold"] == [True, False, True, False]  # the threshold is 0.11 for K = 3
    # Two of four answers are unlikely, so the estimated rate is high despite the prior of 0.1.
    assert keep["dynamic_threshold"] == [True, False, True, False]
    assert filters.StaticThreshold(0.0).keep(made).all()
    assert filters.RandomFilter(0.0).keep(made).all()
    with pytest.raises(ValueError, match="control for experiments"):
        filters.OracleFilter().keep(answers(p, labels))


def test_random_filter_rejects_its_share():
    made = answers(np.full((5000, 2), 0.5), np.zeros(5000, int))
    keep, other = (filters.RandomFilter(0.3).keep(made._replace(seed=seed)) for seed in (0, 1))
    assert stats.binomtest(int((~keep).sum()), 5000, 0.3).pvalue > 1e-3
    assert stats.binomtest(int((keep != other).sum()), 5000, 2 * 0.3 * 0.7).pvalue > 1e-3


def test_budget_is_kept_on_average():
    rate, kappa, size = 0.2, 0.25, 4000
    p = RNG.dirichlet(0.3 * np.ones(10), size=size)
    truth = (RNG.random((size, 1)) >= p.cumsum(1)).sum(1).clip(max=9)
    given = oracles.NoisyOracle(truth, rate, num_classes=10)(np.arange(size))
    rejected = int((~filters.BudgetThreshold(rate, kappa).keep(answers(p, given))).sum())
    expected = (1 + kappa) * rate * size
    assert abs(rejected - expected) < 4 * np.sqrt(expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: filters.StaticThreshold(1.5),
        lambda: filters.BayesThreshold(noise_rate=1.0),
        lambda: filters.BayesThreshold(cost_ratio=-1.0),
        lambda: filters.RandomFilter(rate=-0.1),
        lambda: filters.get("threshold"),
        lambda: filters.get({"name": "static_threshold", "tua": 0.1}),
    ],
)
def test_filters_refuse(make):
    with pytest.raises(ValueError, match=r"Expected .*Received: .*Hint: "):
        make()


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_configurations(name):
    made = filters.get(name)
    again = filters.get(keras.saving.serialize_keras_object(made))
    assert again.get_config() == made.get_config()
    assert filters.get({"name": name, **made.get_config()}).get_config() == made.get_config()


def test_every_filter_is_listed():
    assert set(filters.Filter.__subclasses__()) == set(FILTERS.values())


# In the learner.

X = RNG.normal(size=(300, 5)).astype("float32")
Y = X[:, :3].argmax(1)


@functools.cache
def network():
    """Return one model to all learners, which start from new weights, so that it is traced once."""
    keras.utils.set_random_seed(0)
    model = bayesian_mlp(prior_scale=1.0, num_samples=10)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def learner(**kwargs):
    arguments = {
        "initial": np.arange(30),
        "ignore": np.arange(200, 300),
        "validation_data": (X[200:], Y[200:]),
        "oracle": oracles.NoisyOracle(Y, 0.4, seed=2, resample=True),
        "query_size": 20,
        "steps": 60,
        "seed": 1,
    }
    return ActiveLearner(network(), X, Y, **arranged(**{**arguments, **kwargs}))


@pytest.mark.parametrize("rejected", ["skip", "quarantine", "relabel"])
def test_counts_agree_with_the_labels(rejected):
    made = learner(label_filter=filters.OracleFilter(rejected))
    history = made.run(3)
    for row in history[1:]:
        assert row.num_rejected == row.num_wrong_rejected > 0
    if rejected == "relabel":
        # Wrong answers were asked about again, and the second answer is final.
        assert all(row.num_asked == 20 + row.num_rejected for row in history[1:])
        assert history[-1].num_acquired == 60
        assert made.pool.num_asks.max() == 2
    else:
        assert all(row.num_asked == 20 for row in history[1:])
        assert all(row.num_rejected == row.num_wrong for row in history)
        assert history[-1].purity == 1
        assert history[-1].num_acquired == 60 - sum(row.num_rejected for row in history)
    labelled = made.pool.labelled
    assert history[-1].purity == np.mean(made.labels[labelled] == Y[labelled])
    assert filter_quality(history)["precision"] == 1


class Noting(filters.StaticThreshold):
    """A filter that keeps everything, and what it was given."""

    trusts_model = False

    def keep(self, answers):
        self.seen = [*getattr(self, "seen", ()), answers]
        return np.ones(len(answers.labels), bool)


def test_filters_see_calibrated_probabilities_and_those_of_earlier_answers():
    made = learner(label_filter=Noting())
    made.run(1)
    indices = np.sort(made.propose())
    mean = made.model.predict_uncertainty(X[200:], seed=made._seeds.filter).mean
    made.tell(indices, made.oracle(indices))
    made.train()
    first, second = made.filter.seen
    np.testing.assert_array_equal(second.earlier, first.probability)
    raw = made.pool.probabilities_of(indices)
    expected = raw ** (1 / fit_temperature(Y[200:], mean))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(second.probabilities, expected, rtol=1e-5)
    assert np.abs(raw - expected).max() > 0.05


def test_no_filter_trains_on_everything():
    made = learner()
    history = made.run(2)
    assert history[-1].num_acquired == 40
    assert history[-1].num_rejected == 0
    assert history[-1].purity < 1


def test_dynamic_threshold_finds_wrong_labels():
    history = learner(label_filter="dynamic_threshold").run(5)
    quality = filter_quality(history)
    base = sum(r.num_wrong for r in history) / sum(r.num_asked for r in history)
    assert quality["precision"] > base + 0.2
    assert quality["recall"] > 0.5


def test_an_inaccurate_model_rejects_nothing():
    validation = X[200:], (Y[200:] + RNG.integers(1, 3, 100)) % 3  # all validation labels are wrong
    history = learner(
        label_filter={"name": "static_threshold", "tau": 1.0}, validation_data=validation
    ).run(1)
    assert history[-1].num_rejected == 0
    # Filters that are controls do not rely on the model.
    assert learner(label_filter="oracle", validation_data=validation).run(1)[-1].num_rejected > 0


def test_everything_rejected_is_no_reason_to_stop():
    made = learner(label_filter={"name": "static_threshold", "tau": 1.0})
    history = made.run(2)
    assert [row.num_acquired for row in history] == [0, 0, 0]
    assert [row.num_rejected for row in history] == [0, 20, 20]


def test_quarantined_labels_come_back():
    made = learner(label_filter=filters.StaticThreshold(0.9, "quarantine"))
    made.run(1)
    waiting = made.pool.rejected
    assert len(waiting) == made.history[-1].num_rejected > 0
    made._judge.filter = Noting(rejected="quarantine")
    p = made.model.predict_uncertainty(X[waiting], seed=made._seeds.filter).mean
    made.propose()
    (seen,) = made._judge.filter.seen
    np.testing.assert_array_equal(seen.probabilities.argmax(1), p.argmax(1))
    np.testing.assert_array_equal(seen.labels, made.labels[waiting])
    assert np.isin(waiting, made.pool.labelled).all()
    made.step()
    assert made.history[-1].num_acquired == 40


def test_humans_may_be_asked_again():
    label_filter = {"name": "static_threshold", "tau": 1.0, "rejected": "relabel"}
    made = learner(label_filter=label_filter, oracle=None)
    first = made.propose()
    made.tell(first[:5], Y[first[:5]])
    assert made.pool.num_acquired == 0  # the filter waits for the batch
    made.tell(first[5:], Y[first[5:]])
    assert set(made.propose().tolist()) == set(first.tolist())
    made.tell(first, Y[first])
    made.train()
    assert made.pool.num_acquired == 20


def test_resumed_with_its_answers(tmp_path):
    arguments = {"label_filter": filters.DynamicThreshold(rejected="quarantine")}
    whole = learner(**arguments)
    whole.run(3)
    path = tmp_path / "checkpoint.npz"
    part = learner(**arguments, checkpoint=path)
    part.run(1)
    proposed = part.propose()
    part.tell(proposed[:7], part.oracle(proposed[:7]))
    again = learner(**arguments, checkpoint=path)
    again.run(3)
    np.testing.assert_array_equal(again.pool.acquired_at, whole.pool.acquired_at)
    keys = ("num_asked", "num_rejected", "num_wrong", "purity", "validation_nll")
    for a, b in zip(again.history, whole.history):
        assert [getattr(a, k) for k in keys] == [getattr(b, k) for k in keys]


def test_killed_before_rejected_labels_were_asked_again(tmp_path):
    arguments = {"label_filter": filters.OracleFilter("relabel")}
    whole = learner(**arguments)
    whole.run(1)
    path = tmp_path / "checkpoint.npz"
    part = learner(**arguments, checkpoint=path)
    proposed = part.propose()
    part.tell(proposed, part.oracle(proposed))
    again = learner(**arguments, checkpoint=path)
    again.run(1)
    np.testing.assert_array_equal(again.labels, whole.labels)
    assert again.history[-1].num_asked == whole.history[-1].num_asked > 20


def test_normal_predictions_are_not_filtered():
    features = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model = BayesianBasisRegression(features, 3)
    model.compile("adam")
    with pytest.raises(ValueError, match="predicts class probabilities"):
        ActiveLearner(model, X, Y, initial=[0, 1, 2], label_filter="dynamic_threshold")


def test_another_filter_is_another_run(tmp_path):
    learner(checkpoint=tmp_path / "c.npz").train()
    with pytest.raises(ValueError, match="label_filter='StaticThreshold"):
        learner(checkpoint=tmp_path / "c.npz", label_filter="static_threshold")


def test_unknown_treatment_of_rejected_labels_is_refused():
    with pytest.raises(ValueError, match="rejected='drop'"):
        filters.StaticThreshold(rejected="drop")
