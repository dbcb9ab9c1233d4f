"""Batches of a closed-form head, each example after the variance that the others remove."""

import numpy as np

from tfp_bayes.active.selectors.selector import Candidates, Selector


class GreedyVariance(Selector):
    """The largest variance, then the largest that is left once that label is known, and so on.

    For a model with a closed-form head (`BayesianBasisRegression`), whose variance does not
    depend on the labels: for the exact posterior this is greedy BatchBALD in closed form. Looks
    at no score.
    """

    reads_scores = False

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Returns the positions chosen."""
        del seed
        if not hasattr(candidates.model, "greedy_batch"):
            raise ValueError(
                "Expected a model with a closed-form head for selector='greedy_variance'. "
                f"Received: model={candidates.model!r}. Hint: BayesianBasisRegression has one; "
                "'batch_bald' serves the others."
            )
        return candidates.model.greedy_batch(candidates.x(), query_size)
