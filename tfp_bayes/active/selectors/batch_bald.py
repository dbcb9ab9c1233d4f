"""BatchBALD: batches that are jointly informative."""

from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes.active.selectors.selector import Candidates, Selector, check_query_size

MAX_CONFIGURATIONS = 10_000
_AT_ONCE = 8  # candidates whose gains are computed together


class Batch(NamedTuple):
    """A batch from `pick_batch`.

    Attributes:
        positions: (q,) int64 positions, in the order picked.
        gains: (q,) float64 information that each example adds to those before it, in nats.
        is_exact: (q,) bool, whether the gain was computed over all labels of those before it, not
            over a sample of labels.
    """

    positions: np.ndarray
    gains: np.ndarray
    is_exact: np.ndarray


def batch_bald(
    samples: np.ndarray,
    query_size: int,
    seed: int = 0,
    max_configurations: int = MAX_CONFIGURATIONS,
) -> np.ndarray:
    """Pick greedily the batch with the largest mutual information between labels and weights.

    Unlike `bald` with `top_k`, this counts only the information that the other examples of the
    batch do not provide. The labels of the batch are enumerated while there are few combinations,
    then sampled.

    Args:
        samples: (S, N, K) probabilities, where samples[s] is one function evaluated at all N
            candidates, as `sample` returns them.
        query_size: Number of examples to pick.
        seed: Integer that decides the sampled labels.
        max_configurations: Maximum number of label combinations to keep. More are more exact and
            slower.

    Returns:
        Positions (query_size,) int64, in the order picked. The first has the largest BALD score.

    Raises:
        ValueError: If `samples` are not probabilities (S, N, K), or `query_size` is out of range.

    Reference:
        Kirsch et al. 2019, equation 8 and algorithm 1, arXiv:1906.08158, by the chain rule: the
        gain of x is H(y_x | y_batch) - mean_s H(y_x | s).

    Example:

    >>> p = np.array([0.1, 0.9])  # two functions: examples 0 and 1 are copies of each other
    >>> of_class_1 = np.stack([p, p, 0.9 * p[::-1], [0.5, 0.5]], axis=1)  # (S, N)
    >>> batch_bald(np.stack([1 - of_class_1, of_class_1], axis=-1), 2).tolist() in ([0, 1], [1, 0])
    True
    """
    return pick_batch(samples, query_size, seed, max_configurations).positions


def pick_batch(
    samples: np.ndarray,
    query_size: int,
    seed: int = 0,
    max_configurations: int = MAX_CONFIGURATIONS,
) -> Batch:
    """Return the batch of `batch_bald` with the gain of each example. See `batch_bald`."""
    samples = _checked(samples)
    num_samples, num_candidates, _ = samples.shape
    check_query_size(query_size, num_candidates)
    by_candidate = np.ascontiguousarray(samples.transpose(1, 0, 2), "float32")  # (N, S, K)
    noise = -xlogy(by_candidate, by_candidate).sum(-1).mean(-1, dtype="float64")  # (N,)
    rng = np.random.default_rng(seed)

    # One row for each combination of labels of the batch: its log likelihood under each sample, and
    # its probability.
    log_likelihood = np.zeros((1, num_samples), "float32")  # (M, S)
    weights = np.ones(1)  # (M,)
    # Gains never increase as the batch grows, so an old gain is an upper bound of the new one.
    bounds = np.full(num_candidates, np.inf)
    picked: list[int] = []
    gains: list[float] = []
    are_exact: list[bool] = []
    while True:
        posterior = _softmax(log_likelihood)  # (M, S): p(sample | labels)
        best = _largest_gain(bounds, posterior, weights, by_candidate, noise)
        picked.append(best)
        gains.append(float(bounds[best]))
        are_exact.append(len(weights) == samples.shape[2] ** (len(picked) - 1))
        bounds[best] = -np.inf
        if len(picked) == query_size:
            return Batch(np.array(picked), np.array(gains), np.array(are_exact))
        log_likelihood, weights = _extend(
            log_likelihood, weights, posterior, by_candidate[best], max_configurations, rng
        )


def _largest_gain(
    bounds: np.ndarray,
    posterior: np.ndarray,
    weights: np.ndarray,
    p: np.ndarray,
    noise: np.ndarray,
) -> int:
    """Return the candidate with the largest gain, and update `bounds` (N,) of those evaluated."""
    best, fresh = -1, -np.inf
    order = np.argsort(-bounds, kind="stable")
    for start in range(0, len(bounds), _AT_ONCE):
        if bounds[order[start]] <= fresh:
            break
        at = order[start : start + _AT_ONCE]
        at = at[bounds[at] > -np.inf]
        if not at.size:
            break
        bounds[at] = _label_entropy(posterior, weights, p[at]) - noise[at]
        top = at[np.argmax(bounds[at])]
        if bounds[top] > fresh:
            best, fresh = int(top), bounds[top]
    return best


def _label_entropy(posterior: np.ndarray, weights: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return H(y_x | y_batch) (C,) of C candidates with probabilities (C, S, K)."""
    num, _, num_classes = p.shape
    flat = p.transpose(1, 0, 2).reshape(posterior.shape[1], -1)  # (S, C K)
    predictive = posterior @ flat  # (M, C K)
    return -(weights @ xlogy(predictive, predictive)).reshape(num, num_classes).sum(-1)


def _extend(
    log_likelihood: np.ndarray,
    weights: np.ndarray,
    posterior: np.ndarray,
    p: np.ndarray,
    max_configurations: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Extend every combination by the label of one more example with probabilities (S, K)."""
    num, num_samples = log_likelihood.shape
    num_classes = p.shape[1]
    log_p = np.log(np.maximum(p, 1e-30))
    predictive = posterior @ p  # (M, K)
    if num * num_classes <= max_configurations:  # append every label
        extended = log_likelihood[:, None] + log_p.T[None]  # (M, K, S)
        return extended.reshape(-1, num_samples), (weights[:, None] * predictive).reshape(-1)
    # Append one label to each combination, drawn from its predictive distribution.
    cumulative = np.cumsum(predictive, axis=1)
    draws = rng.random((num, 1)) * cumulative[:, -1:]
    labels = np.minimum((draws >= cumulative).sum(1), num_classes - 1)
    return log_likelihood + log_p.T[labels], weights


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def _checked(samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples)
    valid = samples.ndim == 3 and samples.size and samples.min() >= 0
    if not valid or np.abs(samples.sum(-1) - 1).max() > 0.02:
        raise ValueError(
            "Expected probabilities (S, N, K) for `samples`, sample axis first. "
            f"Received: shape {samples.shape}. Hint: use model.sample(x, num_samples), or "
            "predict_uncertainty(x, return_samples=True).samples."
        )
    return samples


class BatchBALD(Selector):
    """Selector of jointly informative examples; see `batch_bald`. It ignores the scores.

    Args:
        max_configurations: Maximum number of label combinations to keep.
    """

    needs_samples = True
    reads_scores = False
    likelihoods = ("categorical",)

    def __init__(self, max_configurations: int = MAX_CONFIGURATIONS):
        check_integers(1, max_configurations=max_configurations)
        self.max_configurations = int(max_configurations)

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Return the positions chosen."""
        samples = np.asarray(candidates.prediction.samples)  # batch_bald refuses None
        return batch_bald(samples, query_size, seed, self.max_configurations)

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"max_configurations": self.max_configurations}
