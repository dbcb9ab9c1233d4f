"""Every public stochastic layer through the harness."""

import functools
import inspect
from dataclasses import dataclass

import harness
import pytest

from tfp_bayes import layers


@dataclass(frozen=True)
class Case:
    layer: type
    arguments: dict
    input_shape: tuple
    output_shape: tuple
    bad_arguments: list

    @property
    def make(self):
        return functools.partial(self.layer, **self.arguments)


BAD_RATES = [
    ({"rate": 1.0}, r"\[0, 1\).*Received: rate=1.0"),
    ({"rate": -0.1}, "Received: rate=-0.1"),
    ({"rate": float("nan")}, "Received: rate=nan"),
    ({"rate": "half"}, "Received: rate='half'"),
    ({"rate": True}, "Received: rate=True"),
]
BAD_SPATIAL = [*BAD_RATES, ({"rate": 0.5, "data_format": "NHWC"}, "data_format='NHWC'")]


def spatial(layer, shape):
    return Case(layer, {"rate": 0.4}, shape, shape, BAD_SPATIAL)


CASES = {
    "MCDropout": Case(layers.MCDropout, {"rate": 0.4}, (20,), (20,), BAD_RATES),
    "MCDropout, image": Case(layers.MCDropout, {"rate": 0.4}, (3, 3, 4), (3, 3, 4), BAD_RATES),
    "MCDropout, noise_shape": Case(
        layers.MCDropout, {"rate": 0.4, "noise_shape": (None, 1, 20)}, (3, 20), (3, 20), BAD_RATES
    ),
    "MCSpatialDropout1D": spatial(layers.MCSpatialDropout1D, (3, 20)),
    "MCSpatialDropout2D": spatial(layers.MCSpatialDropout2D, (3, 3, 20)),
    "MCSpatialDropout3D": spatial(layers.MCSpatialDropout3D, (2, 2, 2, 20)),
}


def test_every_layer_has_a_case():
    public = {
        each
        for name in layers.__all__
        if inspect.isclass(each := getattr(layers, name)) and each is not layers.StochasticLayer
    }
    assert public == {case.layer for case in CASES.values()}


@pytest.mark.parametrize("check", harness.CHECKS.values(), ids=harness.CHECKS.keys())
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_layer(case, check, tmp_path):
    needs_folder = "tmp_path" in inspect.signature(check).parameters
    check(case, tmp_path) if needs_folder else check(case)
