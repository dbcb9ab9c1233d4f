"""Labels from several annotators."""

import numpy as np
import pytest
from scipy import stats

from tfp_bayes.active import oracles
from tfp_bayes.active.oracles import Annotators, dawid_skene, majority

RNG = np.random.default_rng(0)
K, N = 4, 3000
TRUTH = RNG.integers(0, K, N)
ALL = np.arange(N)


def team(rates):
    return [oracles.NoisyOracle(TRUTH, rate, seed=s, num_classes=K) for s, rate in enumerate(rates)]


def test_majority_counts():
    answers = RNG.integers(-1, K, (5, 50))
    answers[0] = np.abs(answers[0])
    for n, label in enumerate(majority(answers, K)):
        counts = np.bincount(answers[:, n][answers[:, n] >= 0], minlength=K)
        assert counts[label] == counts.max()


def test_ties_are_not_broken_by_position():
    answers = np.array([[0], [1]])
    picked = [int(majority(answers, 2, seed)[0]) for seed in range(400)]
    assert stats.binomtest(sum(picked), 400, 0.5).pvalue > 1e-3


@pytest.mark.parametrize("aggregation", ["majority", "dawid_skene"])
def test_ties_favor_no_class(aggregation):
    """If two annotators always disagree, each provides half of the labels."""
    first, second = np.zeros(1000, "int64"), np.ones(1000, "int64")
    oracles_ = [oracles.ArrayOracle(first), oracles.ArrayOracle(second)]
    labels = Annotators(oracles_, 2, aggregation)(np.arange(1000))
    assert stats.binomtest(int(labels.sum()), 1000, 0.5).pvalue > 1e-3
    other = Annotators(oracles_, 2, aggregation, seed=1)(np.arange(1000))
    assert stats.binomtest(int((other == labels).sum()), 1000, 0.5).pvalue > 1e-3
    each = [int(Annotators(oracles_, 2, aggregation)(np.array([i]))[0]) for i in range(50)]
    assert each == labels[:50].tolist()  # independent of which others are asked about
    together = majority(np.stack([first, second]), 2)
    assert stats.binomtest(int(together.sum()), 1000, 0.5).pvalue > 1e-3


def test_an_annotator_need_not_accept_again():
    team = Annotators([lambda indices: indices % 3], 3)
    assert team(np.array([4, 5]), again=1).tolist() == [1, 2]
    team = Annotators([lambda indices, again: (indices + again) % 3], 3)
    assert team(np.array([4, 5]), again=1).tolist() == [2, 0]


def by_bayes(answers, confusion, prior):
    """Return the probabilities (N, K) of the labels for known annotators."""
    log_p = np.repeat(np.log(prior)[None], answers.shape[1], axis=0)
    for matrix, given in zip(confusion, answers):
        log_p += np.where(given[:, None] < 0, 0, np.log(matrix[:, given].T))
    return np.exp(log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True))


def test_dawid_skene_finds_the_reliable_annotator():
    answers = np.stack([oracle(ALL) for oracle in team([0.05, 0.6, 0.6, 0.6])])
    p, confusion = dawid_skene(answers, K)
    np.testing.assert_allclose(p, by_bayes(answers, confusion, p.mean(0)), atol=1e-4)
    right = np.mean(p.argmax(1) == TRUTH)
    assert right > np.mean(majority(answers, K) == TRUTH) + 0.05
    assert right > 0.9
    np.testing.assert_allclose(p.sum(1), 1)


def test_confusion_is_that_of_the_annotators():
    rates = [0.1, 0.2, 0.3, 0.4]
    answers = np.stack([oracle(ALL) for oracle in team(rates)])
    for estimate, rate in zip(dawid_skene(answers, K)[1], rates):
        expected = np.full((K, K), rate / (K - 1)) + np.eye(K) * (1 - rate - rate / (K - 1))
        # Four standard errors of a row's counts, doubled because the labels are estimates too.
        assert np.abs(estimate - expected).max() < 8 * np.sqrt(0.25 * K / N)
        found = np.diag(estimate).mean()
        assert abs(found - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / N) + 0.01


def test_dawid_skene_is_a_maximum_of_the_likelihood():
    answers = np.stack([oracle(ALL) for oracle in team([0.2, 0.3, 0.4])])
    p, confusion = dawid_skene(answers, K)

    def log_likelihood(confusion, prior):
        per_class = np.log(prior) + sum(np.log(c[:, a]).T for c, a in zip(confusion, answers))
        return np.logaddexp.reduce(per_class, axis=1).sum()

    best = log_likelihood(confusion, p.mean(0))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        other = confusion * np.exp(0.05 * rng.normal(size=confusion.shape))
        other /= other.sum(2, keepdims=True)
        assert log_likelihood(other, p.mean(0)) < best


def test_missing_answers():
    answers = np.stack([oracle(ALL) for oracle in team([0.1, 0.1, 0.1])])
    answers[RNG.integers(0, 3, N), ALL] = -1
    p, confusion = dawid_skene(answers, K)
    np.testing.assert_allclose(p, by_bayes(answers, confusion, p.mean(0)), atol=1e-4)
    assert np.mean(p.argmax(1) == TRUTH) > 0.85


@pytest.mark.parametrize("aggregation", ["majority", "dawid_skene"])
def test_a_team_is_better_than_its_members(aggregation):
    made = Annotators(team([0.3] * 5), K, aggregation)
    labels = np.concatenate([made(ALL[i : i + 100]) for i in range(0, N, 100)])
    assert np.mean(labels == TRUTH) > 0.85
    if aggregation == "dawid_skene":  # each label takes all answers so far into account
        np.testing.assert_array_equal(made(ALL[:9]), dawid_skene(made.answers, K)[0][-9:].argmax(1))
        assert made.answers.shape == (5, N)  # answers to a repeated question replace the earlier


@pytest.mark.parametrize(
    "call",
    [
        lambda: majority(np.array([[-1, 0]]), 2),
        lambda: majority(np.array([[2]]), 2),
        lambda: dawid_skene(np.array([0, 1]), 2),
        lambda: Annotators([], 2),
        lambda: Annotators(team([0.1]), K, "vote"),
    ],
)
def test_refused(call):
    with pytest.raises(ValueError, match=r"Expected .*Received: .*Hint: "):
        call()
