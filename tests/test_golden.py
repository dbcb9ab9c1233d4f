"""Tests that files of every release load and give the values stored with them."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from golden.make import NUM_SAMPLES, SEED, learner

import tfp_bayes

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "answers.npz").exists())
# Other CPUs and TensorFlow versions round differently.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", params=VERSIONS)
def release(request):
    folder = GOLDEN / request.param
    with np.load(folder / "answers.npz") as file:
        return folder, dict(file)


@pytest.mark.parametrize("name", ["mc_dropout", "flipout", "concrete_dropout"])
def test_models(name, release):
    folder, answers = release
    model = keras.models.load_model(folder / f"{name}.keras")  # safe_mode is on
    assert model.num_samples == 4
    for i, weight in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weight, answers[f"{name}.weight{i}"])
    assert f"{name}.weight{len(model.get_weights())}" not in answers
    p = model.predict_uncertainty(answers["x"], NUM_SAMPLES, seed=SEED)
    np.testing.assert_allclose(p.mean, answers[f"{name}.mean"], **CLOSE)
    mutual_information = answers[f"{name}.mutual_information"]
    np.testing.assert_allclose(p.mutual_information, mutual_information, **CLOSE)
    assert mutual_information.max() > 0.01  # the functions differ
    loss = model.evaluate(answers["x"], answers["y"], verbose=0)
    np.testing.assert_allclose(loss, answers[f"{name}.loss"], **CLOSE)
    model.fit(answers["x"], answers["y"], verbose=0)  # it can be trained further


@pytest.mark.parametrize("name", ["stored", "laplace"])
def test_posteriors(name, release):
    folder, answers = release
    model = keras.models.load_model(folder / f"{name}.keras")
    posterior = tfp_bayes.load_posterior(folder / f"{name}.npz", model)
    predictor = tfp_bayes.Predictor(model, posterior=posterior)
    mean = predictor.predict(answers["x"], NUM_SAMPLES, seed=SEED)
    np.testing.assert_allclose(mean, answers[f"{name}.mean"], **CLOSE)


def test_checkpoint(release, tmp_path):
    folder, answers = release
    for path in folder.glob("run.npz*"):
        shutil.copy(path, tmp_path)
    model = keras.models.load_model(folder / "mc_dropout.keras")
    run = learner(model, answers["x"], answers["y"], tmp_path / "run.npz")
    np.testing.assert_array_equal(run.pool.acquired_at, answers["run.acquired_at"])
    assert [row.num_labelled for row in run.history] == [6, 8, 10]
    np.testing.assert_array_equal(run.propose(), answers["run.proposed"])
    assert run.run(3)[-1].num_labelled == 12
