"""Selectors, compared with slow references, enumeration and the distributions they draw from."""

import keras
import numpy as np
import pytest
import reference
from networks import bayesian_mlp, vectors
from scipy import stats
from scipy.special import softmax as softmax_of_rows
from sklearn.metrics import pairwise_distances_argmin_min

from tfp_bayes import BayesianMLP, to_deterministic
from tfp_bayes.active import ActiveLearner, Query, Refit, selectors
from tfp_bayes.active.built_in import SELECTORS
from tfp_bayes.active.selectors import (
    badge,
    batch_bald,
    diverse,
    k_center,
    power,
    softmax,
    softrank,
    top_k,
)

RNG = np.random.default_rng(0)


def probabilities(num_samples, num_examples, num_classes, seed=0, sharpness=2.0):
    logits = sharpness * np.random.default_rng(seed).normal(
        size=(num_samples, num_examples, num_classes)
    )
    return softmax_of_rows(logits, -1)


# BatchBALD.


@pytest.mark.parametrize("seed", range(20))
def test_batch_bald_equals_enumeration(seed):
    samples = probabilities(3, 8, 2, seed)
    assert batch_bald(samples, 3).tolist() == reference.batch_bald(samples.tolist(), 3)


@pytest.mark.parametrize("seed", range(5))
def test_batch_bald_equals_enumeration_of_more_classes(seed):
    samples = probabilities(6, 7, 3, seed)
    assert batch_bald(samples, 4).tolist() == reference.batch_bald(samples.tolist(), 4)


def test_sampled_labels_come_near_to_enumeration():
    samples = probabilities(10, 12, 3, sharpness=3.0)
    best = reference.joint_mutual_information(
        samples.tolist(), reference.batch_bald(samples.tolist(), 6)
    )
    top = top_k(reference.mutual_information(samples.tolist()), 6)
    naive = reference.joint_mutual_information(samples.tolist(), top.tolist())
    for seed in range(3):
        batch = batch_bald(samples, 6, seed, max_configurations=200)
        found = reference.joint_mutual_information(samples.tolist(), batch.tolist())
        # Sampled gains lose at most 0.01 nats against exact ones, and beat top_k.
        assert found > best - 0.01
        assert found > naive


def test_first_pick_is_bald_and_copies_come_last():
    samples = probabilities(40, 30, 5)
    bald = np.array(reference.mutual_information(samples.tolist()))
    assert batch_bald(samples, 1)[0] == bald.argmax()
    best = samples[:, [bald.argmax()]]
    several = np.concatenate([np.repeat(best, 5, axis=1), samples], axis=1)
    batch = batch_bald(several, 4)
    copies = {*range(5), 5 + int(bald.argmax())}
    assert len(copies & set(batch.tolist())) == 1
    assert copies >= set(top_k(reference.mutual_information(several.tolist()), 4).tolist())


def test_batch_bald_of_a_whole_pool_is_a_permutation():
    batch = batch_bald(probabilities(5, 9, 3), 9, max_configurations=50)
    assert sorted(batch.tolist()) == list(range(9))


def test_certain_samples():
    certain = np.zeros((4, 6, 3))
    certain[..., 0] = 1
    assert len(set(batch_bald(certain, 3).tolist())) == 3


@pytest.mark.parametrize(
    ("samples", "size", "message"),
    [
        (np.ones((3, 4)), 1, r"shape \(3, 4\)"),
        (np.ones((3, 4, 2)), 1, r"probabilities \(S, N, K\)"),
        (probabilities(3, 4, 2), 5, "the 4 candidates. Received: query_size=5"),
    ],
)
def test_batch_bald_refuses(samples, size, message):
    with pytest.raises(ValueError, match=message):
        batch_bald(samples, size)


# Random batches.


@pytest.mark.parametrize(
    ("draw", "weights"),
    [
        (lambda s, q, seed: power(s, q, 2.0, seed), lambda s: s**2),
        (lambda s, q, seed: softmax(s, q, 1.5, seed), lambda s: np.exp(1.5 * s)),
        (
            lambda s, q, seed: softrank(s, q, 1.0, seed),
            lambda s: 1 / (len(s) - s.argsort().argsort()),
        ),
    ],
    ids=["power", "softmax", "softrank"],
)
def test_probability_of_the_first_two(draw, weights):
    scores = np.array([0.4, 1.0, 0.2, 0.7])
    w = weights(scores)
    # Without replacement, the second example is drawn from the remaining ones.
    pairs = {(i, j): w[i] / w.sum() * w[j] / (w.sum() - w[i]) for i in range(4) for j in range(4)}
    pairs = {pair: p for pair, p in pairs.items() if pair[0] != pair[1]}
    draws = [tuple(draw(scores, 2, seed).tolist()) for seed in range(4000)]
    counts = np.array([draws.count(pair) for pair in pairs])
    expected = 4000 * np.array(list(pairs.values()))
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert draw(scores, 4, 7).tolist() == draw(scores, 4, 7).tolist()


def test_power_draws_scores_of_zero_last():
    scores = np.array([0.0, 1e-6, -1.0, 0.5])
    for seed in range(50):
        assert set(power(scores, 2, seed=seed).tolist()) == {1, 3}
    assert sorted(power(scores, 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("draw", [power, softmax, softrank])
def test_large_beta_is_top_k(draw):
    scores = RNG.permutation(np.arange(1.0, 31.0))
    np.testing.assert_array_equal(draw(scores, 5, beta=1e6), top_k(scores, 5))


# Diversity.


@pytest.mark.parametrize("coefficient", [0.3, 1.0, -0.5])
def test_diverse_equals_reference(coefficient):
    scores, features = RNG.uniform(0.1, 1, 25), RNG.normal(size=(25, 4))
    picked = diverse(scores, features, 8, coefficient)
    expected = reference.diverse(scores.tolist(), features.tolist(), 8, coefficient)
    assert picked.tolist() == expected


def test_no_penalty_is_top_k():
    scores, features = RNG.integers(0, 5, 40) / 4, RNG.normal(size=(40, 3))
    for seed in range(5):
        np.testing.assert_array_equal(
            diverse(scores, features, 15, 0.0, seed), top_k(scores, 15, seed)
        )


def test_diverse_without_scores_or_differences():
    assert sorted(diverse(np.zeros(5), np.ones((5, 2)), 5).tolist()) == [0, 1, 2, 3, 4]


def test_k_center_equals_reference_and_covers():
    features, labelled = RNG.normal(size=(40, 3)), RNG.normal(size=(4, 3))
    picked = k_center(features, labelled, 10)
    assert picked.tolist() == reference.k_center(features.tolist(), labelled.tolist(), 10)
    # Each pick is the farthest example, so the largest distance decreases.
    _, distances = pairwise_distances_argmin_min(features, np.vstack([labelled, features[picked]]))
    _, before = pairwise_distances_argmin_min(features, labelled)
    assert distances.max() < before.max()
    assert sorted(k_center(features, labelled[:0], 40).tolist()) == list(range(40))
    assert k_center(np.ones((4, 2)), np.ones((1, 2)), 4).size == 4


def test_badge_draws_by_squared_distance_of_gradients():
    p, h = probabilities(1, 6, 3)[0], RNG.normal(size=(6, 4)).astype("float32")
    error = p - np.eye(3)[p.argmax(1)]
    gradients = np.einsum("nk,nf->nkf", error, h.astype("float64")).reshape(6, -1)
    first = int(np.square(gradients).sum(1).argmax())
    weights = np.square(gradients - gradients[first]).sum(1)
    draws = np.array([badge(p, h, 2, seed) for seed in range(4000)])
    assert (draws[:, 0] == first).all()
    counts = np.delete(np.bincount(draws[:, 1], minlength=6), first)
    expected = np.delete(4000 * weights / weights.sum(), first)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_badge_of_copies():
    assert sorted(badge(np.full((5, 2), 0.5), np.ones((5, 3)), 5).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "call",
    [
        lambda: diverse(np.ones(3), np.ones((4, 2)), 1),
        lambda: diverse(np.array([1.0, np.nan]), np.ones((2, 2)), 1),
        lambda: diverse(np.ones(3), np.ones((3, 2)), 4),
        lambda: k_center(np.ones(3), np.ones((1, 2)), 1),
        lambda: k_center(np.ones((3, 2)), np.ones((1, 2)), 0),
        lambda: badge(np.ones((3, 2)), np.ones((2, 2)), 1),
        lambda: power(np.ones(3), 4),
        lambda: power(np.ones(3), 1, beta=0),
        lambda: softmax(np.ones(3), 1, beta=float("inf")),
        lambda: softrank(np.ones(3), 1, beta=-1),
        lambda: selectors.Power(beta=-1.0),
        lambda: selectors.Diverse(features="pixel"),
        lambda: selectors.KCenter(features="last"),
        lambda: selectors.get("best"),
    ],
)
def test_refused(call):
    with pytest.raises(ValueError, match=r"Expected .* Received: .* Hint: "):
        call()


# In the learner.


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = bayesian_mlp(num_samples=20)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


X = vectors(60)
Y = X[:, :3].argmax(1)


@pytest.mark.parametrize("name", sorted(set(SELECTORS) - {"greedy_variance"}))
@pytest.mark.parametrize("acquisition", ["bald", "epig", "margin"])
def test_every_pair_of_score_and_selector(name, acquisition, model):
    def run():
        learner = ActiveLearner(
            model,
            X,
            Y,
            initial=np.arange(5),
            query=Query(acquisition, name, size=4, candidates=30),
            refit=Refit(steps=3),
        )
        learner.run(1)
        return learner.pool.acquired_at

    acquired_at = run()
    assert (acquired_at == 1).sum() == 4
    np.testing.assert_array_equal(acquired_at, run())


@pytest.mark.parametrize("name", SELECTORS)
def test_named_serialized_and_given(name):
    selector = selectors.get(name)
    assert selectors.get(selector) is selector
    again = selectors.get(keras.saving.serialize_keras_object(selector))
    assert type(again) is type(selector)
    assert again.get_config() == selector.get_config()


def test_every_selector_is_listed():
    def subclasses(cls):
        return {cls}.union(*(subclasses(each) for each in cls.__subclasses__()))

    named = {each for each in subclasses(selectors.Selector) if not each.__name__.startswith("_")}
    assert named - {selectors.Selector} == set(SELECTORS.values())


def test_greedy_variance_needs_a_closed_form_head(model):
    query = {"selector": "greedy_variance"}
    learner = ActiveLearner(model, X, Y, initial=[0, 1, 2], query=query, refit={"steps": 1})
    with pytest.raises(ValueError, match="closed-form head for selector='greedy_variance'"):
        learner.propose()


class NoisyRows:
    """A model that draws noise for each row, as dropout in training does."""

    output_shape = (None, 3)
    compiled = True

    def __init__(self, model):
        self.optimizer, self.trainable_variables = model.optimizer, model.trainable_variables
        self.variables = model.variables
        self.inner = model

    def predict_uncertainty(self, x, num_samples, seed, return_samples):
        p = self.inner.predict_uncertainty(x, num_samples, seed, return_samples=True)
        samples = np.random.default_rng(seed).permuted(p.samples, axis=0)
        return type(p)(**{**vars(p), "samples": samples})


@pytest.mark.parametrize("arguments", [{"selector": "batch_bald"}, {"acquisition": "epig"}])
def test_samples_that_are_no_functions_are_refused(arguments, model):
    with pytest.raises(ValueError, match="samples are functions"):
        ActiveLearner(NoisyRows(model), X, Y, initial=[0, 1, 2], query=arguments)


@pytest.mark.parametrize("inference", ["mc_dropout", "flipout"])
def test_embedding_follows_the_model(inference):
    network = BayesianMLP((5,), 3, hidden_units=(8, 4), inference=inference)
    for scale in (1.0, 1.5):
        for layer in network.layers:
            layer.set_weights([w * w.dtype.type(scale) for w in layer.get_weights()])
        embedded = network.embed(X)
        assert embedded.shape == (60, 4)
        twin = to_deterministic(network)
        kernel, bias = twin.layers[-1].get_weights()
        expected = softmax_of_rows(embedded @ kernel + bias, -1)
        np.testing.assert_allclose(twin.predict(X, verbose=0), expected, rtol=1e-4)
