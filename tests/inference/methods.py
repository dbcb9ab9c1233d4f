"""Test cases for all methods that fit a posterior over weights, run by `test_methods.py`.

For a new method, add a case here, with small settings because each case is fitted several times.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tfp_bayes.inference import (
    HMC,
    SWAG,
    BatchEnsemble,
    CyclicalSGHMC,
    DeepEnsemble,
    Laplace,
    Method,
    MultiSWAG,
)


class Case(NamedTuple):
    """A method on a small classifier.

    Attributes:
        make: Function that makes the method from further settings, such as `directory`.
        fit_arguments: Arguments of its `fit` other than the data.
        steps: Optimizer steps before the method is fitted. 0 if the method starts from new weights.
        stop_at: Epoch, counted over the whole fit, at which to interrupt it halfway. None for a
            method without `directory`.
        prior_scale: Prior scale, if the classifier is a `BayesianModel`. None for a plain Keras
            model.
    """

    make: Callable[..., Method]
    fit_arguments: dict[str, Any]
    steps: int = 0
    stop_at: int | None = None
    prior_scale: float | None = None


def _training(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": 16, "verbose": 0}


CASES = {
    "deep_ensemble": Case(lambda **more: DeepEnsemble(2, **more), _training(2), stop_at=3),
    "batch_ensemble": Case(lambda **more: BatchEnsemble(2, **more), _training(2), stop_at=1),
    "swag": Case(
        lambda **more: SWAG(2, num_snapshots=2, temperature=0.5, **more),
        _training(3),
        steps=4,
        stop_at=2,
    ),
    "multi_swag": Case(
        lambda **more: MultiSWAG(2, draws_per_member=2, rank=2, num_snapshots=2, **more),
        _training(2),
        stop_at=3,
    ),
    "cyclical_sghmc": Case(
        lambda **more: CyclicalSGHMC(2, snapshots_per_cycle=2, noise_epochs=2, **more),
        _training(4),
        stop_at=3,
    ),
    "laplace": Case(lambda **more: Laplace(prior_scale=0.5, temperature=0.5, **more), {}, steps=20),
    "last_layer_laplace": Case(
        lambda **more: Laplace("full", 0.5, "last_layer", temperature=2.0, **more),
        {},
        steps=20,
    ),
    # NUTS almost always moves, so the draws differ.
    "hmc": Case(
        lambda **more: HMC(2, 5, 10, kernel="nuts", variables="last_layer", **more),
        _training(2),
        stop_at=1,
        prior_scale=1.0,
    ),
}
