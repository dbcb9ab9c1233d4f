"""Tests that a BayesianModel is saved, loaded and cloned with its arguments, or refuses."""

import keras
import numpy as np
import pytest

from tfp_bayes import BayesianCNN, BayesianModel
from tfp_bayes.layers import MCDropout

L = keras.layers


def graph():
    inputs = keras.Input((4,))
    hidden = MCDropout(0.5)(L.Dense(5, "relu")(inputs))
    return inputs, L.Dense(3, activation="sigmoid")(hidden)


@keras.saving.register_keras_serializable("test_graph_config")
class Plain(BayesianModel):
    """A subclass that only adds methods."""


class Tempered(BayesianModel):
    """A subclass with an argument that is not in its configuration."""

    def __init__(self, inputs, outputs, name=None, *, temperature=1.0, **kwargs):
        super().__init__(inputs, outputs, name, **kwargs)
        self.temperature = temperature


class Sized(BayesianModel):
    """A subclass that builds its own graph."""

    def __init__(self, units=5, **kwargs):
        inputs = keras.Input((4,))
        hidden = MCDropout(0.5)(L.Dense(units, "relu")(inputs))
        super().__init__(inputs, L.Dense(3, activation="softmax")(hidden), **kwargs)


@keras.saving.register_keras_serializable("test_graph_config")
class Described(Sized):
    """A subclass that builds its own graph and defines get_config."""

    def get_config(self):
        units = self.layers[1].units
        return {"units": units, "name": self.name, "prior_scale": self.prior_scale}


def arguments(model):
    return model.likelihood, model.prior_scale, model.num_samples


@pytest.mark.parametrize("kind", [BayesianModel, Plain])
def test_saved_and_cloned_with_its_arguments(kind, tmp_path):
    model = kind(*graph(), likelihood="bernoulli", prior_scale=0.3, num_samples=7)
    model.layers[1].trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    for other in (loaded, clone):
        assert type(other) is kind
        assert arguments(other) == ("bernoulli", 0.3, 7)
        assert [w.trainable for w in other.weights] == [w.trainable for w in model.weights]
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone.prior_penalty(), model.prior_penalty())


def test_a_frozen_model_stays_frozen(tmp_path):
    model = BayesianModel(*graph(), likelihood="bernoulli")
    model.trainable = False
    model.save(tmp_path / "model.keras")
    assert not keras.models.load_model(tmp_path / "model.keras").trainable


def test_a_model_called_in_another_does_not_pass_on_its_arguments():
    inner = BayesianModel(*graph(), likelihood="bernoulli", prior_scale=0.3, num_samples=7)
    inputs = keras.Input((4,))
    outer = BayesianModel(inputs, inner(inputs), likelihood="bernoulli")
    assert arguments(outer) == ("bernoulli", None, 100)


def test_a_constructor_of_its_own(tmp_path):
    described = Described(6, prior_scale=0.3)
    described.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is Described
    assert (loaded.layers[1].units, loaded.prior_scale) == (6, 0.3)
    for model in (Tempered(*graph(), temperature=2.0, likelihood="bernoulli"), Sized(6)):
        message = f"that can be rebuilt from its configuration. Received: {type(model).__name__}"
        with pytest.raises(ValueError, match=message):
            model.save(tmp_path / "refused.keras")
        with pytest.raises(ValueError, match="would copy the layers but not the prior"):
            keras.models.clone_model(model)
    with pytest.raises(ValueError, match="Received: BayesianCNN"):
        keras.models.clone_model(BayesianCNN((8, 8, 1), 3))
