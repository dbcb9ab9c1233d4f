"""Acquisition functions, top_k and initial sets."""

import keras
import numpy as np
import pandas as pd
import pytest
import reference
from networks import bayesian_mlp, vectors

from tfp_bayes.active import acquisition, initial, top_k
from tfp_bayes.active.built_in import ACQUISITIONS

REFERENCES = {
    "bald": reference.mutual_information,
    "max_entropy": reference.predictive_entropy,
    "variation_ratios": reference.variation_ratio,
    "mean_std": reference.mean_std,
    "margin": reference.margin,
    "least_confident": reference.variation_ratio,
    "predictive_variance": reference.label_variance,
    "random": lambda samples: [0.0] * len(samples[0]),
}


@pytest.fixture(scope="module")
def prediction():
    return bayesian_mlp().predict_uncertainty(vectors(20), 30, seed=0, return_samples=True)


def test_every_acquisition_has_a_reference():
    names = {function.__name__ for function in ACQUISITIONS.values()}
    assert names == {*REFERENCES, "epig"}


@pytest.mark.parametrize("name", REFERENCES)
def test_scores_equal_reference(name, prediction):
    scores = acquisition.get(name)(prediction)
    expected = REFERENCES[name](prediction.samples.tolist())
    np.testing.assert_allclose(scores, expected, atol=2e-6)


def test_epig_equals_reference_and_is_never_above_bald(prediction):
    model = bayesian_mlp()
    pool = model.predict_uncertainty(vectors(70), 30, seed=0, return_samples=True)
    targets = model.predict_uncertainty(vectors(9, seed=1), 30, seed=0, return_samples=True)
    scores = acquisition.epig(pool, targets)
    expected = reference.expected_information_gain(pool.samples.tolist(), targets.samples.tolist())
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    assert (scores <= acquisition.bald(pool) + 2e-6).all()
    # An example has positive information about itself, at most its information about the weights.
    own = acquisition.epig(pool, model.predict_uncertainty(vectors(1), 30, 0, return_samples=True))
    assert own[0] > 0


def test_epig_of_a_calibrated_model_is_that_of_its_samples():
    model = bayesian_mlp()
    before, after = [], []
    for predictions in (before, after):
        for size, seed in ((20, 0), (9, 1)):
            x = vectors(size, seed=seed)
            predictions.append(model.predict_uncertainty(x, 30, seed=0, return_samples=True))
        model.output_temperature.assign(0.5)
    assert after[0].temperature == 0.5
    np.testing.assert_allclose(acquisition.epig(*after), acquisition.epig(*before), atol=1e-9)


def test_epig_needs_samples_of_the_same_functions(prediction):
    without = bayesian_mlp().predict_uncertainty(vectors(3), 30, seed=0)
    fewer = bayesian_mlp().predict_uncertainty(vectors(3), 5, seed=0, return_samples=True)
    for targets in (without, fewer):
        with pytest.raises(ValueError, match="as many samples of the same functions"):
            acquisition.epig(prediction, targets)


@pytest.mark.parametrize("function", ACQUISITIONS.values())
def test_named_serialized_and_given(function):
    assert acquisition.get(function.__name__) is function
    assert acquisition.get(function) is function
    assert acquisition.get(keras.saving.serialize_keras_object(function)) is function


def test_own_function_can_be_registered(prediction):
    @keras.saving.register_keras_serializable("tests")
    def least_sure_of_class_0(prediction):
        return -prediction.mean[:, 0]

    assert acquisition.get("tests>least_sure_of_class_0") is least_sure_of_class_0
    with pytest.raises(ValueError, match="acquisition='entropie'"):
        acquisition.get("entropie")


def test_top_k_is_ordered():
    scores = np.array([0.3, 0.9, -1.0, 0.5])
    np.testing.assert_array_equal(top_k(scores, 3), [1, 3, 0])
    np.testing.assert_array_equal(top_k(scores, 4), [1, 3, 0, 2])


def test_ties_are_broken_at_random_not_by_position():
    picked = np.array([top_k(np.zeros(10), 1, seed)[0] for seed in range(2000)])
    counts = np.bincount(picked, minlength=10)
    # Chi-square with 9 degrees of freedom: 27.9 is its 99.9th percentile.
    assert ((counts - 200) ** 2 / 200).sum() < 27.9
    np.testing.assert_array_equal(top_k(np.zeros(10), 5, 3), top_k(np.zeros(10), 5, 3))


@pytest.mark.parametrize(
    ("scores", "k", "message"),
    [
        (np.zeros(3), 4, "the 3 candidates. Received: query_size=4"),
        (np.zeros(3), 0, "query_size=0"),
        (np.array([0.0, np.nan]), 1, "1 NaN"),
        (np.zeros((2, 2)), 1, r"shape \(2, 2\)"),
    ],
)
def test_top_k_refuses(scores, k, message):
    with pytest.raises(ValueError, match=message):
        top_k(scores, k)


def test_balanced_initial_set():
    labels = np.random.default_rng(0).integers(0, 5, 400)
    held_out = initial.balanced(labels, 50, seed=1)
    start = initial.balanced(labels, 12, seed=1, exclude=held_out)
    assert sorted(np.bincount(labels[start]).tolist()) == [2, 2, 2, 3, 3]
    assert not set(start) & set(held_out)
    assert len(set(start)) == 12
    np.testing.assert_array_equal(start, initial.balanced(labels, 12, seed=1, exclude=held_out))
    assert not np.array_equal(start, initial.balanced(labels, 12, seed=2, exclude=held_out))
    with pytest.raises(ValueError, match="at least 200 examples of class 0"):
        initial.balanced(labels, 1000)
    for size in (0, 4, 4.5, True):
        with pytest.raises(ValueError, match=f"size={size}"):
            initial.balanced(labels, size)
    np.testing.assert_array_equal(initial.balanced(labels[:, None], 5), initial.balanced(labels, 5))
    for wrong in (20, [], np.eye(5)[labels]):
        with pytest.raises(ValueError, match="for `labels`"):
            initial.balanced(wrong, 5)
    with pytest.raises(ValueError, match=r"each of 9 inputs\. Received: 400"):
        initial.kmeans(np.zeros((9, 2)), labels, 5)


# Initial sets.


def test_kmeans_picks_the_medoids_of_each_class():
    rng = np.random.default_rng(0)
    # Two clusters in each of two classes.
    centers = np.array([[0, 0], [10, 0], [0, 10], [10, 10.0]])
    x = np.concatenate([c + rng.normal(size=(50, 2)) for c in centers])
    labels = np.repeat([0, 0, 1, 1], 50)
    chosen = initial.kmeans(x, labels, 4)
    assert (chosen // 50).tolist() == [0, 1, 2, 3]
    for i, group in zip(chosen, range(4)):
        members = x[50 * group : 50 * (group + 1)]
        distances = np.linalg.norm(members - members.mean(0), axis=1)
        assert i == 50 * group + distances.argmin()
    np.testing.assert_array_equal(initial.kmeans_unlabelled(x, 4), chosen)
    assert initial.coverage(labels, chosen) == {0: 2, 1: 2}
    # Row labels and column numbers of a table are no positions of rows.
    table = pd.DataFrame(x, index=rng.permutation(200))
    np.testing.assert_array_equal(initial.kmeans(table, labels, 4), chosen)
    wide = np.repeat(x, 100, axis=1)
    np.testing.assert_array_equal(initial.kmeans_unlabelled(pd.DataFrame(wide), 4), chosen)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, y, **kw: initial.random_set(len(x), **kw),
        initial.kmeans,
        lambda x, y, **kw: initial.kmeans_unlabelled(x, **kw),
        lambda x, y, **kw: initial.balanced(y, **kw),
    ],
    ids=["random", "kmeans", "kmeans_unlabelled", "balanced"],
)
def test_initial_sets_have_the_given_size_and_respect_exclude(draw):
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[:30] = x[0]  # duplicates
    labels = np.arange(60) % 3
    exclude = np.arange(20)
    chosen = draw(x, labels, size=11, seed=4, exclude=exclude)
    assert len(np.unique(chosen)) == len(chosen) == 11
    assert chosen.min() >= 20
    np.testing.assert_array_equal(chosen, draw(x, labels, size=11, seed=4, exclude=exclude))
    for size in (0, 61):
        with pytest.raises(ValueError, match=r"Expected .* Received: .* Hint: "):
            draw(x, labels, size=size, exclude=exclude)
    for wrong in (np.arange(60) < 20, [-1], [60], [0.5]):  # a mask is not a list of indices
        with pytest.raises(ValueError, match="for `exclude`"):
            draw(x, labels, size=11, exclude=wrong)
