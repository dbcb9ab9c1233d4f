"""Tests of continual learning: heads, coresets and files."""

import shutil

import keras
import numpy as np
import pytest

from tfp_bayes import BayesianModel
from tfp_bayes.layers import DenseLocalReparameterization, MCDropout
from tfp_bayes.models import ContinualLearner
from tfp_bayes.posteriors import MeanFieldNormal

L = keras.layers
Q = MeanFieldNormal(0.02)
RANDOM = {"kernel_posterior": Q, "bias_prior": "normal", "bias_posterior": Q}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 2)).astype("float32")
TASKS = [(X, (X[:, 0] > 0).astype(int)), (X + 3, (X[:, 1] > 0).astype(int))]
FIT = {"epochs": 15, "batch_size": 50, "verbose": 0}


def network():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2,))
    x = DenseLocalReparameterization(16, "relu", name="body", **RANDOM)(inputs)
    x = L.BatchNormalization(momentum=0.5, name="norm")(x)
    head = DenseLocalReparameterization(2, "softmax", name="head", **RANDOM)
    model = BayesianModel(inputs, head(x), num_samples=20)
    model.compile(
        keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def make(**arguments):
    settings = {"private": ["norm", "head"], "coreset_size": 10, "coreset_epochs": 10, "seed": 3}
    return ContinualLearner(network(), **settings | arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A learner of two tasks, its models, and a copy of its folder during the second task."""
    folder = tmp_path_factory.mktemp("run")
    killed = folder / "killed"
    learner = make(directory=folder / "whole")
    learner.fit(*TASKS[0], **FIT)

    def kill(epoch, logs):
        if epoch == 12:  # the file is from the previous epoch
            shutil.copytree(folder / "whole", killed, ignore=shutil.ignore_patterns("*.lock"))

    learner.fit(*TASKS[1], **FIT, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=kill)])
    return learner, [learner.task_model(task) for task in (0, 1)], folder


def test_tasks_are_remembered_with_heads_and_statistics_of_their_own(run):
    learner, models, _ = run
    assert learner.num_tasks == 2
    assert len(learner.divergences) == 2
    assert min(learner.divergences) > 0.1
    for model, (x, y) in zip(models, TASKS):
        assert (np.argmax(model(x), -1) == y).mean() > 0.7
    means = [model.get_layer("norm").moving_mean.numpy() for model in models]
    assert np.abs(means[0] - means[1]).max() > 0.3
    kernels = [model.get_layer("head").kernel_loc.numpy() for model in models]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


def test_coresets_are_held_out_and_refine_only_what_answers(run):
    learner, (_, refined), _ = run
    for (x, y), (kept, labels) in zip(TASKS, learner._coresets):
        assert kept.shape == (10, 2)
        rows = [int(np.flatnonzero((x == each).all(1))[0]) for each in kept]
        np.testing.assert_array_equal(y[rows], labels)
        assert len(set(rows)) == 10
    before = [w.copy() for w in learner._model.get_weights()]
    for a, b in zip(before, learner._model.get_weights()):
        np.testing.assert_array_equal(a, b)
    shared = learner._model.get_layer("body")
    body = refined.get_layer("body")
    np.testing.assert_array_equal(body.kernel_prior_loc, shared.kernel_loc)
    assert np.abs(body.kernel_loc - shared.kernel_loc).max() > 1e-4
    assert float(body.kl_divergence()) > 0
    norm = refined.get_layer("norm")
    np.testing.assert_array_equal(norm.gamma, learner._model.get_layer("norm").gamma)


def test_a_killed_run_goes_on_to_the_same_bits(run):
    learner, models, folder = run
    resumed = make(directory=folder / "killed")
    assert resumed.num_tasks == 1
    epochs = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    for x, y in TASKS[resumed.num_tasks :]:
        resumed.fit(x, y, **FIT, callbacks=[note])
    assert epochs == [12, 13, 14]
    done = make(directory=folder / "killed")
    assert resumed.divergences == learner.divergences == done.divergences
    for a, b in zip(resumed._model.get_weights(), learner._model.get_weights()):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(done.task_model(0).get_weights(), models[0].get_weights()):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"coreset_size=5 \(was 10\)"):
        make(directory=folder / "killed", coreset_size=5)


def test_the_data_are_those_without_the_coreset(monkeypatch):
    from tfp_bayes.models import continual_learner

    seen = []
    monkeypatch.setattr(continual_learner, "train", lambda model, x, y, **_: seen.append((x, y)))
    learner = make(private=["norm", "head"], coreset_size=10)
    learner.fit(*TASKS[0], **FIT)
    x, y = seen[0]
    assert x.shape == (90, 2)
    kept, _ = learner._coresets[0]
    assert not (x[:, None] == kept[None]).all(-1).any()
    np.testing.assert_array_equal(np.sort(np.r_[x, kept][:, 0]), np.sort(X[:, 0]))
    learner.fit(*TASKS[1], **FIT)
    learner.task_model(0)
    assert len(seen[-1][1]) == 10
    assert len(y) == 90


def test_what_cannot_be_learned_so_is_refused():
    with pytest.raises(ValueError, match="norm/moving statistics"):
        make(private="head")
    with pytest.raises(ValueError, match="more examples than the coreset_size=100 that are held"):
        make(coreset_size=100).fit(*TASKS[0], **FIT)
    learner = make()
    with pytest.raises(ValueError, match="Received: NaN or infinity in the examples"):
        learner.fit(np.where(X > 2, np.nan, X), TASKS[0][1], **FIT)
    with pytest.raises(ValueError, match="Expected arrays for `x` and `y`"):
        learner.fit(X, None, **FIT)
    with pytest.raises(ValueError, match="same length"):
        learner.fit(X, TASKS[0][1][:-1], **FIT)
    with pytest.raises(ValueError, match=r"no sample_weight with a coreset.*coreset_size=10"):
        learner.fit(*TASKS[0], **FIT, sample_weight=np.ones(100))
    assert learner.num_tasks == 0
    with pytest.raises(ValueError, match=r"of the 0 learned tasks for `task`\. Received: task=0"):
        make().task_model(0)
    plain = keras.Sequential([keras.Input((2,)), MCDropout(0.5), L.Dense(2, "softmax")])
    plain.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"BayesianModel for `model`\. Received: Sequential"):
        ContinualLearner(plain)
