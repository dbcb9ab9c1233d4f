"""The variational families q: what a posterior over a layer's weights may look like."""

from tfp_bayes._plumbing.configured import get_configured
from tfp_bayes.posteriors.deterministic import Deterministic
from tfp_bayes.posteriors.low_rank_normal import LowRankNormal
from tfp_bayes.posteriors.mean_field_normal import MeanFieldNormal
from tfp_bayes.posteriors.normalizing_flow import NormalizingFlow
from tfp_bayes.posteriors.posterior import Posterior

__all__ = [
    "Deterministic",
    "LowRankNormal",
    "MeanFieldNormal",
    "NormalizingFlow",
    "Posterior",
    "get",
]

_CLASSES = {
    "deterministic": Deterministic,
    "low_rank_normal": LowRankNormal,
    "mean_field_normal": MeanFieldNormal,
    "normalizing_flow": NormalizingFlow,
}


def get(identifier: str | dict | Posterior, argument: str = "posterior") -> Posterior:
    """Returns a variational family from its name, its serialized form or itself.

    Args:
        identifier: "mean_field_normal", "deterministic", "low_rank_normal", "normalizing_flow"
            (with their defaults), a dictionary or a `Posterior`.
        argument: Name of the caller's argument, for the error.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> tfp_bayes.posteriors.get("low_rank_normal")
    LowRankNormal(rank=1, initial_scale=0.0067)
    """
    return get_configured(identifier, Posterior, argument, _CLASSES)
