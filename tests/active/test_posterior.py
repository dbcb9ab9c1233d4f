"""A learner that fits a posterior over weights in each round and scores by its predictions."""

import keras
import numpy as np
import pytest
from networks import bayesian_mlp, vectors

from tfp_bayes import Predictor
from tfp_bayes.active import ActiveLearner, Evaluation, Query, Refit
from tfp_bayes.inference import DeepEnsemble, StoredPosterior

X = vectors(40)
Y = X[:, :3].argmax(1)


def plain():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


class Jitter:
    """A method with four draws around the weights of the model's own training."""

    def __init__(self, scale=0.1):
        self.scale = scale

    def get_config(self):
        return {"scale": self.scale}

    def fit(self, model, x, y=None, **fit_arguments):
        rng = np.random.default_rng(0)
        noise = [self.scale * rng.normal(size=(4, *w.shape)) for w in model.weights]
        return StoredPosterior(model, [w.numpy() + e for w, e in zip(model.weights, noise)])


class Unsaved(Jitter):
    """The same method, with a posterior that cannot be saved."""

    def fit(self, model, x, y=None, **fit_arguments):
        stored = super().fit(model, x, y)

        class Draws:
            variables, num_draws = stored.variables, stored.num_draws
            draw, center = staticmethod(stored.draw), staticmethod(stored.center)

        return Draws()


def learner(model, method, steps=0, fit_arguments=None, **more):
    refit = Refit(steps=steps, posterior=method, fit_arguments=fit_arguments)
    return ActiveLearner(
        model,
        X,
        Y,
        initial=np.arange(6),
        query=Query(size=2, ignore=np.arange(30, 40)),
        refit=refit,
        evaluation=Evaluation(test_data=(X[30:], Y[30:])),
        **more,
    )


def test_scores_and_evaluation_use_the_posterior():
    model = plain()
    found = learner(model, DeepEnsemble(3), fit_arguments={"epochs": 2})
    found.run(1)
    predictor = Predictor(model, posterior=found.predictor.posterior)
    expected = predictor.predict_uncertainty(X[30:]).score(Y[30:])
    assert found.history[-1].test_nll == expected.nll
    proposed = found.propose()
    pool = np.flatnonzero(found.pool.acquired_at == -1)
    candidates = np.union1d(pool, proposed)
    scores = predictor.predict_uncertainty(X[candidates]).mutual_information
    np.testing.assert_array_equal(found.candidate_scores, scores)
    assert proposed[0] == candidates[scores.argmax()]


def test_a_round_traces_nothing_again_and_has_its_own_seed():
    found = learner(plain(), DeepEnsemble(2), fit_arguments={"epochs": 1})
    found.run(0)
    traced, before = found.predictor._predictor, found.predictor.posterior.draw(0, None)
    (function,) = traced._compiled.values()
    found.run(2)
    assert found.predictor._predictor is traced
    assert function.experimental_get_tracing_count() == 1
    after = found.predictor.posterior.draw(1, None)
    for value, weight in zip(after, found.model.weights):  # the last member of the last round
        np.testing.assert_array_equal(value, weight)
    start = DeepEnsemble(2, seed=0).fit(found.model, X[:6], Y[:6], epochs=1, verbose=0)
    for a, b in zip(before[:1], start.draw(0, None)[:1]):
        assert not np.array_equal(a, b)  # the seed is the round's, not the method's


def test_a_method_after_the_training_of_a_bayesian_model():
    model = bayesian_mlp(num_samples=4)
    model.compile("adam", "sparse_categorical_crossentropy")
    found = learner(model, Jitter(), steps=5)
    found.run(1)
    assert found.history[-1].optimizer_steps == 5
    center = found.predictor.posterior.center()
    for value, weight in zip(center, model.weights):
        assert not weight.trainable or np.abs(value - weight).max() < 0.5


def test_a_posterior_that_cannot_be_saved_works_only_without_a_checkpoint(tmp_path):
    assert len(learner(plain(), Unsaved(), steps=2).run(1)) == 2
    kept = learner(plain(), Unsaved(), steps=2, checkpoint=tmp_path / "checkpoint.npz")
    with pytest.raises(ValueError, match="Expected a method whose posterior can be saved"):
        kept.run(1)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="for `posterior`"):
        Refit(posterior="deep_ensemble")
    with pytest.raises(ValueError, match="without a `directory`"):
        Refit(posterior=DeepEnsemble(directory=tmp_path))
    with pytest.raises(ValueError, match="`posterior` with `fit_arguments`"):
        Refit(fit_arguments={"epochs": 2})
    with pytest.raises(ValueError, match="for `steps`"):
        Refit(steps=0)
    with pytest.raises(ValueError, match="Expected a compiled `model`"):
        learner(keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")]), Jitter())
