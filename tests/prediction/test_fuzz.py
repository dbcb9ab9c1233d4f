"""The predictor equals the whole model, layer by layer, on random graphs (--fuzz=N for more)."""

import keras
import layer_by_layer
import numpy as np
from random_graphs import RandomGraph

from tfp_bayes import Predictor


def pytest_generate_tests(metafunc):
    metafunc.parametrize("seed", range(metafunc.config.getoption("fuzz")))


def test_random_graph(seed):
    graph = RandomGraph(seed)
    expected = layer_by_layer.sample(graph.model, graph.x, 2, seed)
    predictor = Predictor(graph.model, likelihood="bernoulli")
    for rows in (slice(None), slice(1, 3)):
        actual = predictor.sample(graph.x[rows], 2, seed)
        for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected)):
            np.testing.assert_allclose(a, b[:, rows], atol=2e-5)
