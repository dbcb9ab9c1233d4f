"""A posterior over weights through the same predictor."""

import numpy as np
import pytest
from networks import mlp, vectors

from tfp_bayes import Ensemble, Predictor
from tfp_bayes.layers import stochastic_layers


def without_noise(model):
    for layer in stochastic_layers(model):
        layer.rate = 0
    return model


def test_samples_are_the_members_in_turn():
    members = [without_noise(mlp()) for _ in range(3)]
    samples = Predictor(members[0], posterior=Ensemble(members)).sample(vectors(), 5, seed=0)
    for s, sample in enumerate(samples):
        np.testing.assert_allclose(sample, members[s % 3](vectors()), atol=1e-6)


def test_layer_noise_and_weight_noise_compose():
    members = [mlp(), mlp()]
    x = vectors()
    samples = Predictor(members[0], posterior=Ensemble(members)).sample(x, 6, seed=3)
    assert len(np.unique(samples[:, 0], axis=0)) == 6
    # Sample s has the noise that the member alone has in its sample s.
    alone = [Predictor(member).sample(x, 6, seed=3) for member in members]
    for s in range(6):
        np.testing.assert_allclose(samples[s], alone[s % 2][s], atol=1e-6)


def test_leaves_the_weights_alone():
    members = [mlp(), mlp()]
    before = members[0].get_weights()
    Predictor(members[0], posterior=Ensemble(members)).predict(vectors(), 4, seed=0)
    for a, b in zip(before, members[0].get_weights()):
        np.testing.assert_array_equal(a, b)


def test_takes_lists_of_weights():
    members = [mlp(), mlp()]
    x = vectors()
    expected = Predictor(members[0], posterior=Ensemble(members)).predict(x, 4, seed=0)
    arrays = Ensemble([[v.numpy() for v in m.trainable_variables] for m in members])
    np.testing.assert_array_equal(
        Predictor(members[0], posterior=arrays).predict(x, 4, seed=0), expected
    )


def test_refuses_members_that_differ():
    with pytest.raises(ValueError, match="2 members with 2 different"):
        Ensemble([mlp(5), mlp(6)])
    with pytest.raises(ValueError, match="0 members"):
        Ensemble([])
