"""What a sampled prediction says: a mean and the measures of its uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """Uncertainty measures of N predictions, estimated from S posterior samples.

    Entropies are in nats. Measures sum (entropies) or average (`variation_ratio`, `mean_std`)
    over independent outputs when the likelihood is "bernoulli". When it is "normal", K is D, the
    number of targets; `predictive_entropy` is that of a normal of the same variance, which is an
    upper bound.

    Attributes:
        mean: (N, K) posterior predictive mean.
        predictive_entropy: (N,) total uncertainty, H[mean_s p_s].
        expected_entropy: (N,) aleatoric part, mean_s H[p_s].
        mutual_information: (N,) epistemic part, their difference, never below 0.
        variation_ratio: (N,) 1 - max_k mean_k; NaN when the likelihood is "normal".
        mean_std: (N,) standard deviation over samples, averaged over the K classes.
        variance: (N, K) epistemic part of the variance of the target: that over samples.
        aleatoric_variance: (N, K) the rest: mean_s p_s (1 - p_s) of a one-hot label,
            mean_s scale_s^2 of a real target.
        samples: (S, N, K) of the model's outputs, or None unless they were asked for.
    """

    mean: np.ndarray
    predictive_entropy: np.ndarray
    expected_entropy: np.ndarray
    mutual_information: np.ndarray
    variation_ratio: np.ndarray
    mean_std: np.ndarray
    variance: np.ndarray
    aleatoric_variance: np.ndarray
    samples: np.ndarray | None = None


def concatenate(parts: Sequence[Prediction]) -> Prediction:
    """Returns the prediction of all examples from those of some each."""

    def join(name: str) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        if arrays[0] is None:
            return None
        return np.concatenate(arrays, axis=1 if name == "samples" else 0)

    return Prediction(**{name: join(name) for name in Prediction.__dataclass_fields__})
