"""Writes the files of this version that every later one must read, and what they answer.

    python tests/golden/make.py

writes `tests/golden/<version>`. Run it once, when a version is released; `tests/test_golden.py`
reads the folders of all versions. Before the release of 0.1.0 its files follow the formats.

Run it with the lowest version of Keras that setup.cfg accepts: Keras reads files of its own earlier
versions, not of later ones, and the tests run at both ends.
"""

from pathlib import Path

import keras
import numpy as np

import tfp_bayes
from tfp_bayes.active import ActiveLearner
from tfp_bayes.layers import DenseFlipout, MCConcreteDropout, MCDropout

NUM_SAMPLES, SEED = 8, 3


def network(random_layer, **kwargs):
    """A network of two layers, one of them random, trained for a moment."""
    inputs = keras.Input((5,), name="features")
    x = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    x = keras.layers.BatchNormalization(name="normalization")(x)
    outputs = keras.layers.Dense(3, activation="softmax", name="probabilities")(random_layer(x))
    model = tfp_bayes.BayesianModel(inputs, outputs, name="golden", num_samples=4, **kwargs)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def models():
    """Returns the models by the names of their files."""
    return {
        "mc_dropout": network(MCDropout(0.4, name="dropout"), prior_scale=0.5),
        "flipout": network(DenseFlipout(4, kernel_prior="laplace", name="flipout")),
        "concrete_dropout": network(MCConcreteDropout(0.2, name="dropout"), prior_scale=0.5),
    }


def posteriors(folder, x, y):
    """Returns a posterior of stored draws and one that draws, each with its model."""
    averaged = keras.models.load_model(folder / "mc_dropout.keras")
    swag = tfp_bayes.inference.SWAG(2, num_snapshots=3, num_draws=4, learning_rate=0.05)
    stored = swag.fit(averaged, x, y, epochs=3, batch_size=8, verbose=0)
    plain = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(3, "softmax")]
    )
    plain.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    laplace = tfp_bayes.Laplace(prior_scale=0.5).fit(plain, x, y, epochs=3, verbose=0)
    return {"stored": (averaged, stored), "laplace": (plain, laplace)}


def learner(model, x, y, checkpoint):
    """A small run of active learning, to begin or to go on with."""
    return ActiveLearner(
        model,
        x,
        y,
        initial=np.arange(6),
        query={"size": 2, "num_samples": 4},
        refit={"steps": 3},
        seed=1,
        checkpoint=checkpoint,
    )


def main():
    folder = Path(__file__).parent / tfp_bayes.__version__
    folder.mkdir(exist_ok=True)
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    y = x[:, :3].argmax(1).astype("int32")
    answers = {"x": x, "y": y}
    for name, model in models().items():
        model.fit(x, y, epochs=3, batch_size=8, verbose=0)
        model.save(folder / f"{name}.keras")
        p = model.predict_uncertainty(x, NUM_SAMPLES, seed=SEED)
        answers[f"{name}.mean"] = p.mean
        answers[f"{name}.mutual_information"] = p.mutual_information
        answers[f"{name}.loss"] = model.evaluate(x, y, verbose=0)
        for i, weight in enumerate(model.get_weights()):
            answers[f"{name}.weight{i}"] = weight

    for name, (model, posterior) in posteriors(folder, x, y).items():
        model.save(folder / f"{name}.keras")
        posterior.save(folder / f"{name}.npz")
        predictor = tfp_bayes.Predictor(model, posterior=posterior)
        answers[f"{name}.mean"] = predictor.predict(x, NUM_SAMPLES, seed=SEED)

    run = learner(keras.models.load_model(folder / "mc_dropout.keras"), x, y, folder / "run.npz")
    run.run(2)
    answers["run.acquired_at"] = run.pool.acquired_at
    answers["run.proposed"] = run.propose()
    (folder / "run.npz.lock").unlink(missing_ok=True)
    np.savez_compressed(folder / "answers.npz", **answers)


if __name__ == "__main__":
    main()
