"""Batches that greedily reduce the variance of a model with a closed-form head."""

import numpy as np

from tfp_bayes.active.selectors.selector import Candidates, Selector


class GreedyVariance(Selector):
    """Selector of the largest variance, then of the largest one given the first label, and so on.

    Use it for a model with a closed-form head (`BayesianBasisRegression`), whose variance does not
    depend on the values of the labels. For the exact posterior, this is greedy BatchBALD in closed
    form. It ignores the scores.
    """

    reads_scores = False

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Return the positions chosen."""
        del seed
        if not hasattr(candidates.model, "greedy_batch"):
            raise ValueError(
                "Expected a model with a closed-form head for selector='greedy_variance'. "
                f"Received: model={candidates.model!r}. Hint: BayesianBasisRegression has one; "
                "for other models, use 'batch_bald'."
            )
        return candidates.model.greedy_batch(candidates.x(), query_size)
