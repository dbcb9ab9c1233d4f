"""What a sampled prediction says: a mean and the measures of its uncertainty."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """Uncertainty measures of N predictions, estimated from S posterior samples.

    Entropies are in nats. Measures sum (entropies) or average (`variation_ratio`, `mean_std`)
    over independent outputs when the likelihood is "bernoulli".

    Attributes:
        mean: (N, K) posterior predictive mean.
        predictive_entropy: (N,) total uncertainty, H[mean_s p_s].
        expected_entropy: (N,) aleatoric part, mean_s H[p_s].
        mutual_information: (N,) epistemic part, their difference, never below 0.
        variation_ratio: (N,) 1 - max_k mean_k.
        mean_std: (N,) standard deviation over samples, averaged over the K classes.
        variance: (N, K) variance over samples.
        samples: (S, N, K), or None unless they were asked for.
    """

    mean: np.ndarray
    predictive_entropy: np.ndarray
    expected_entropy: np.ndarray
    mutual_information: np.ndarray
    variation_ratio: np.ndarray
    mean_std: np.ndarray
    variance: np.ndarray
    samples: np.ndarray | None = None
