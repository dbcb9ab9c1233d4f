"""The active learning loop: training, proposals, invalid input and reproducibility."""

import functools

import keras
import numpy as np
import pytest
from learners import arranged
from networks import bayesian_mlp

from tfp_bayes import BayesianBasisRegression
from tfp_bayes.active import ActiveLearner, Round
from tfp_bayes.layers import RandomFeatures
from tfp_bayes.studies.curves import images_to_error

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 5)).astype("float32")
Y = X[:, :3].argmax(1)
TEST = (X[150:], Y[150:])


def new_model():
    keras.utils.set_random_seed(0)
    model = bayesian_mlp(prior_scale=1.0, num_samples=10)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


used_model = functools.cache(new_model)  # traced once for all tests; learners reset it in place


def make(model=None, **kwargs):
    arguments = {
        "initial": np.arange(6),
        "ignore": np.arange(150, 200),
        "test_data": TEST,
        "validation_data": (X[140:150], Y[140:150]),
        "query_size": 4,
        "steps": 20,
        "seed": 1,
    }
    return ActiveLearner(model or used_model(), X, Y, **arranged(**{**arguments, **kwargs}))


def outcome(learner):
    """Return everything that must be equal in equal runs, which excludes times."""
    rows = [
        (r.round, r.num_acquired, r.test_accuracy, r.test_nll, r.validation_nll, r.optimizer_steps)
        for r in learner.history
    ]
    scores = learner.pool.scores
    return rows, learner.pool.acquired_at.tolist(), scores[scores > -1].tolist()


def test_run():
    learner = make()
    history = learner.run(3)
    assert [r.round for r in history] == [0, 1, 2, 3]
    assert [r.num_labelled for r in history] == [6, 10, 14, 18]
    assert [r.num_acquired for r in history] == [0, 4, 8, 12]
    assert all(r.optimizer_steps == 20 for r in history)
    np.testing.assert_array_equal(learner.labels[learner.pool.labelled], Y[learner.pool.labelled])
    assert (learner.labels[learner.pool.acquired_at < 0] == -1).all()
    assert np.bincount(learner.pool.acquired_at[learner.pool.acquired_at >= 0]).tolist() == [
        6
    ] + 3 * [4]
    assert learner.pool.acquired_at[150:].tolist() == [-2] * 50
    mean = learner.model.predict_uncertainty(TEST[0], 10, seed=0).mean
    assert history[-1].test_accuracy == pytest.approx((mean.argmax(1) == TEST[1]).mean(), abs=0.1)
    assert learner.run(3) == history  # the run is complete


def test_learning_works():
    learner = make(query_size=20, steps=200)
    learner.run(4)
    assert learner.history[-1].test_accuracy > max(0.8, learner.history[0].test_accuracy)


def test_equal_seeds_choose_equal_examples():
    a, b = make(new_model()), make()
    a.run(2)
    b.run(2)
    assert outcome(a) == outcome(b)
    c = make(seed=2)
    c.run(2)
    assert outcome(a)[1] != outcome(c)[1]


def test_proposes_the_highest_scores():
    learner = make()
    learner.train()
    proposed = learner.propose()
    pool = learner.pool.unlabelled
    seen = []
    learner_scores = learner.pool.scores[proposed]
    assert (np.diff(learner_scores) <= 0).all()
    learner.query.acquisition = lambda p: seen.append(p) or p.mutual_information
    learner.pool.lapse()
    np.testing.assert_array_equal(learner.propose(), proposed)
    rest = np.setdiff1d(np.arange(len(pool)), np.searchsorted(pool, proposed))
    assert seen[0].mutual_information[rest].max() <= learner_scores.min()


def test_candidates_are_a_random_subset(monkeypatch):
    learner = make(candidates=10)
    seen = []
    predict = learner.model.predict_uncertainty
    learner.train()
    monkeypatch.setattr(
        learner.model,
        "predict_uncertainty",
        lambda x, **kw: seen.append(len(x)) or predict(x, **kw),
    )
    learner.propose()
    assert seen == [10]


# Ask and tell.


def test_partial_answers():
    learner = make()
    learner.y = None  # a person labels
    first = learner.propose()
    learner.tell(first[1], Y[first[1]])
    np.testing.assert_array_equal(learner.propose(), first[[0, 2, 3]])
    learner.tell(first[[3, 0]], Y[first[[3, 0]]])
    assert len(learner.history) == 1  # the model is not trained before all are answered
    learner.tell(first[2], Y[first[2]])
    second = learner.propose()
    assert len(learner.history) == 2
    assert not set(first) & set(second)
    learner.tell(second[0], Y[second[0]])
    row = learner.train()  # on the labels so far; the rest of the proposal lapses
    assert (row.num_acquired, len(learner.pool.pending)) == (5, 0)
    assert set(second[1:]) <= set(learner.pool.unlabelled)


def test_ask_and_tell_equals_run():
    a, b = make(), make()
    a.run(2)
    b.oracle = None
    for _ in range(2):
        indices = b.propose()
        b.tell(indices[::-1], Y[indices[::-1]])
    b.train()
    assert outcome(a) == outcome(b)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p: ([p[0], 199], [0, 0]), r"from the last proposal.*Received: \[199\]"),
        (lambda p: ([p[0], 10**9], [0, 0]), r"Received: \[1000000000\]"),
        (lambda p: ([p[0], p[0]], [0, 0]), "2 indices, 1 different"),
        (lambda p: ([p[0], 0], [0, 0]), r"Received: \[0\], answered already"),
        (lambda p: (p[:2], [0, 3]), r"labels in \[0, 3\).*to 3"),
        (lambda p: (p[:2], [-1, 0]), "from -1"),
        (lambda p: (p[:2], [0]), "Expected 2 integer labels"),
        (lambda p: (p[:2], [0.0, 1.0]), "float64"),
    ],
)
def test_wrong_answers_are_refused_and_nothing_is_lost(answer, message):
    learner = make()
    proposed = learner.propose()
    before = learner.pool.acquired_at.copy(), learner.labels.copy()
    with pytest.raises(ValueError, match=message):
        learner.tell(*answer(proposed))
    np.testing.assert_array_equal(learner.pool.acquired_at, before[0])
    np.testing.assert_array_equal(learner.labels, before[1])
    learner.tell(proposed, Y[proposed])


def test_the_last_batch_is_smaller():
    learner = make(ignore=np.arange(13, 200), validation_data=None)
    assert [row.num_acquired for row in learner.run(9)] == [0, 4, 7]  # the pool is empty then
    with pytest.raises(ValueError, match=r"Expected examples in the pool\. Received: 0"):
        learner.step()
    assert len(learner.history) == 3


def test_run_without_labels_suggests_propose():
    learner = make()
    learner.oracle = None
    learner.train()
    with pytest.raises(ValueError, match="use propose"):
        learner.run(1)


# Training in place.


def test_nothing_is_traced_after_the_first_round():
    model = bayesian_mlp(num_samples=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    traced = []
    train_step, stream = model.train_step, model.predictor.stream
    model.train_step = lambda data: traced.append("train") or train_step(data)
    model.predictor.stream = lambda *a, **k: traced.append("predict") or stream(*a, **k)
    learner = make(model)
    learner.run(1)
    assert "train" in traced
    assert "predict" in traced
    traced.clear()
    learner.run(4)
    assert traced == []


def test_fresh_equals_a_new_model():
    """Training from fresh weights equals the training of a model that was never used."""
    learner = make()
    learner.train()
    used = learner.model
    new = new_model()
    for model in (used, new):
        trainer = make(model).trainer
        trainer(X[:12], Y[:12], seed=5)
    for a, b in zip(used.get_weights(), new.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_warm_changes_least_and_shrink_perturb_lies_between():
    model = used_model()
    start = model.get_weights()

    def distance(reinit):
        model.set_weights(start)
        make(reinit=reinit, steps=1).trainer(X[:12], Y[:12], seed=5)
        return sum(np.abs(a - b).sum() for a, b in zip(start, model.get_weights()))

    assert distance("warm") < distance("shrink_perturb") < distance("fresh")


@pytest.mark.parametrize("reinit", ["fresh", "warm", "shrink_perturb"])
def test_training_follows_the_seed(reinit):
    learner = make(reinit=reinit, steps=3)
    start = [v.numpy() for v in learner.model.variables]

    def weights(seed):
        for variable, value in zip(learner.model.variables, start):
            variable.assign(value)
        # Noise that was drawn before must have no influence: another process draws none.
        learner.model.predict_on_batch(X[: seed + 1])
        learner.model(X[:7], training=True)
        learner.trainer(X[:80], Y[:80], seed=seed)
        return np.concatenate([np.ravel(v) for v in learner.model.trainable_variables])

    first = weights(5)
    np.testing.assert_array_equal(first, weights(5))
    assert np.abs(first - weights(6)).max() > 1e-6


def look_at_batches(learner, num_batches, look, monkeypatch):
    """Call a function with the first batches (x, y) of each training."""
    fit = learner.model.fit

    def looked_at(data, **arguments):
        look([*data.take(num_batches)])
        return fit(data, **arguments)

    monkeypatch.setattr(learner.model, "fit", looked_at)


def test_the_order_of_rows_follows_the_seed(monkeypatch):
    learner = make(steps=1)
    orders = []
    look_at_batches(
        learner,
        4,
        lambda batches: orders.append(np.concatenate([x for x, _ in batches])),
        monkeypatch,
    )
    for seed in (5, 5, 6):
        learner.trainer(X[:80], Y[:80], seed=seed)
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()


def test_batches_are_never_larger_than_the_labelled_set(monkeypatch):
    learner = make(batch_size=64)
    sizes = []
    look_at_batches(
        learner, 3, lambda batches: sizes.extend(len(y) for _, y in batches), monkeypatch
    )
    learner.run(1)
    assert sizes == [6, 6, 6, 10, 10, 10]


def test_early_stopping_keeps_the_best_weights(monkeypatch):
    learner = make(steps=25, max_steps=400)
    row = learner.run(0)[0]
    assert 25 <= row.optimizer_steps <= 400
    assert row.optimizer_steps % 25 == 0
    scores = []
    evaluate = learner.model.evaluate
    monkeypatch.setattr(
        learner.model, "evaluate", lambda *a, **k: scores.append(r := evaluate(*a, **k)) or r
    )
    row = learner.train()
    losses = [score["loss"] for score in scores]
    final = evaluate(*learner.evaluation.validation_data, verbose=0, return_dict=True)["loss"]
    assert final == pytest.approx(min(losses), abs=1e-6)


def test_the_optimizer_is_reset():
    learner = make()
    learner.run(2)
    assert int(learner.model.optimizer.iterations) == 20


def test_bad_arguments():
    cases = [
        ({"reinit": "cold"}, "reinit='cold'"),
        ({"steps": 0}, "steps=0"),
        ({"max_steps": 10}, "max_steps=10"),
        ({"query_size": 0}, "size=0"),
        ({"candidates": 3}, "candidates=3"),
        ({"acquisition": "gut feeling"}, "acquisition='gut feeling'"),
        ({"initial": [500]}, r"Received: \[500\]"),
        ({"initial": ([], [])}, r"shape \(0,\)"),
        ({"initial": [150]}, "labeled or ignored"),
        ({"initial": (range(6), [7] * 6)}, "to 7"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            make(**arguments)
    with pytest.raises(ValueError, match=r"Hint: model.compile"):
        make(bayesian_mlp())
    with pytest.raises(ValueError, match="validation_data"):
        make(max_steps=50, validation_data=None)


def test_images_to_error():
    def rows(*accuracies):
        return [Round(i, 0, 10 * i, a) for i, a in enumerate(accuracies)]

    assert images_to_error(rows(0.5, 0.8, 0.95), 0.1) == pytest.approx(10 + 10 * 2 / 3)
    assert images_to_error(rows(0.95, 0.8), 0.1) == 0
    assert images_to_error(rows(0.5, 0.9, 0.8), 0.1) == pytest.approx(10)
    assert images_to_error(rows(0.5, 0.6), 0.1) is None


def test_closed_form_head_learns_actively():
    """The head is conditioned on the labeled examples and scored by its predictive normal."""
    keras.utils.set_random_seed(0)
    features = keras.Sequential([keras.Input((5,)), keras.layers.Dense(12, "tanh")])
    model = BayesianBasisRegression(features, 3, seed=0)
    model.compile(keras.optimizers.Adam(0.01))
    learner = make(model, acquisition="predictive_variance")
    first, last = learner.run(2)[::2]
    assert model.head.num_conditioned == last.num_labelled == 14
    p = model.predict_uncertainty(TEST[0])
    targets = np.eye(3)[TEST[1]]
    assert last.test_rmse == pytest.approx(np.sqrt(((p.mean - targets) ** 2).mean()))
    assert last.test_accuracy == (p.mean.argmax(1) == TEST[1]).mean()
    assert last.test_nll == pytest.approx(model.evaluate(*TEST)[0])
    again = make(model, acquisition="predictive_variance")
    assert outcome(again) == outcome(make(model, acquisition="predictive_variance"))
    again.run(1)
    assert (first.test_rmse, first.num_acquired) == (again.history[0].test_rmse, 0)


def test_rmse_of_probabilities():
    learner = make()
    row = learner.train()
    mean = learner.model.predict_uncertainty(TEST[0], seed=0).mean
    assert abs(row.test_rmse - np.sqrt(((mean - np.eye(3)[TEST[1]]) ** 2).mean())) < 0.1


def test_a_head_on_given_features_starts_each_round_from_its_prior_without_being_rebuilt(
    monkeypatch,
):
    model, other = (BayesianBasisRegression(5, 3, prior_scale=0.5, seed=0) for _ in range(2))
    model.compile()
    learner = make(model, acquisition="predictive_variance")
    model.head.prior_scales.assign([7.0] * 3)
    monkeypatch.setattr(BayesianBasisRegression, "from_config", None)
    assert [row.optimizer_steps for row in learner.run(2)] == [0, 0, 0]
    labelled = learner.pool.labelled
    other.condition(X[labelled], Y[labelled])
    found, expected = (each.predict_uncertainty(TEST[0]) for each in (model, other))
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.variance, expected.variance)


def test_random_features_are_drawn_again_for_each_round():
    features = keras.Sequential([keras.Input((5,)), RandomFeatures(8)])
    model = BayesianBasisRegression(features, 3, seed=0)
    model.compile()
    learner = make(model, acquisition="predictive_variance")
    drawn = []
    for _ in range(2):
        learner.step()
        drawn.append(model.embed(TEST[0]))
    assert not np.allclose(*drawn)
