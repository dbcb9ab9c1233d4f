"""Linear algebra of linear regression under a Gaussian prior, on float64 arrays.

The model is Y = Phi W + noise with features Phi (N, F) and targets Y (N, D). Rows of the noise are
N(0, sigma^2 Sigma), and the prior of W is a matrix normal MN(0, s^2 I, Sigma). The posterior
depends on the scales only through r = sigma^2 / s^2 and is stored as a triangular root of its
precision. Orthogonal transformations add examples to the root. So the rounding error is
proportional to the condition number of the features; computing Phi^T Phi first would square it.

Reference:
    Golub and Van Loan 2013, "Matrix Computations", sections 5.3 and 6.5.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import threadpoolctl
from scipy.linalg import blas, lapack

_ROWS_AT_A_TIME = 8192  # bounds the memory of triangular solves
_LARGEST_LOSS = 1e-9  # if a smaller share of the precision remains, it is mostly rounding error
_LITTLE_WORK = 10**8  # multiplications, for about 10 milliseconds


class Factor(NamedTuple):
    """The posterior of the weights of some outputs, in units of the noise.

    Attributes:
        root: Upper triangular R (F, F) with R^T R = Phi^T Phi + r I.
        projected: Z (F, D) with R M = Z for the posterior mean M.
        residual: Y^T Y - Z^T Z (D, D), the part that the weights do not explain.
    """

    root: np.ndarray
    projected: np.ndarray
    residual: np.ndarray

    def mean(self) -> np.ndarray:
        """Return the posterior mean M (F, D)."""
        with _threads_for(self.root.size * self.projected.shape[1]):
            return scipy.linalg.solve_triangular(self.root, self.projected)

    def whiten(self, phi: np.ndarray) -> np.ndarray:
        """Return R^-T phi^T (F, N). Inner products of its columns are posterior covariances."""
        return scipy.linalg.solve_triangular(self.root, phi.T, trans=1, check_finite=False)


def prior_factor(num_features: int, num_outputs: int, ratio: float) -> Factor:
    """Return the factor given no data."""
    return Factor(
        np.sqrt(ratio) * np.eye(num_features),
        np.zeros((num_features, num_outputs)),
        np.zeros((num_outputs, num_outputs)),
    )


def add_rows(factor: Factor, rows: np.ndarray, triangular: bool = False) -> Factor:
    """Add examples by Householder reflections.

    Args:
        factor: Factor to which the examples are added.
        rows: Concatenated features and targets (n, F + D) of the examples.
        triangular: Whether `rows` is zero below the diagonal, which saves time.
    """
    if not len(rows):
        return factor
    f = len(factor.root)
    size = rows.shape[1]
    stacked = np.zeros((size, size), order="F")
    stacked[:f, :f], stacked[:f, f:] = factor.root, factor.projected
    block = min(32, size)
    with _threads_for(len(rows) * stacked.size):
        triangle, *_, info = lapack.dtpqrt(
            len(rows) if triangular else 0, block, stacked, rows, overwrite_a=True
        )
    if info:
        raise RuntimeError(f"LAPACK's dtpqrt refused its argument {-info}")
    triangle = np.triu(triangle)
    # A positive diagonal makes the root unique.
    triangle[np.diag(triangle) < 0] *= -1
    rest = triangle[f:, f:]
    return Factor(triangle[:f, :f], triangle[:f, f:], factor.residual + rest.T @ rest)


def from_products(gram: np.ndarray, num_features: int, ratio: float) -> Factor:
    """Return the factor of examples from the sums of products of their features and targets.

    It is faster than `add_rows` but less accurate, see `is_well_conditioned`.

    Args:
        gram: Sums of products (F + D, F + D), see `product_sums`.
        num_features: Number of features F.
        ratio: Ratio r.
    """
    f = num_features
    precision = _ridge(gram, f, ratio)
    empty = np.diag(precision) == 0  # features that are always 0, if r is 0
    precision[empty, empty] = 1.0
    root, failed = lapack.dpotrf(precision, lower=False, clean=True)
    if failed:
        raise np.linalg.LinAlgError("not positive definite")
    root[empty, empty] = 0.0
    divisor = root + np.diag(empty.astype("float64"))
    projected = scipy.linalg.solve_triangular(divisor, gram[:f, f:], trans=1)
    return Factor(root, projected, gram[f:, f:] - projected.T @ projected)


def is_well_conditioned(
    gram: np.ndarray, num_features: int, ratio: float, smallest: float = 1e-5
) -> bool:
    """Check that `from_products` is accurate to about ten digits.

    The result does not depend on the units of the features.

    Args:
        gram: Sums of products (F + D, F + D).
        num_features: Number of features F.
        ratio: Ratio r.
        smallest: Smallest allowed reciprocal condition number of the precision scaled to a
            diagonal of 1, and smallest allowed unexplained share of the targets' sum of squares.
    """
    f = num_features
    precision = _ridge(gram, f, ratio)
    diagonal = np.diag(precision)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = precision / scale / scale[:, None]
    scaled[diagonal == 0, diagonal == 0] = 1.0
    norm = np.abs(scaled).sum(0).max(initial=0.0)
    root, failed = lapack.dpotrf(scaled, lower=False)
    if failed:
        return False
    reciprocal, _ = lapack.dpocon(root, norm)
    if reciprocal < smallest:
        return False
    residual = from_products(gram, f, ratio).residual
    return bool((np.diag(residual) >= smallest * np.diag(gram)[f:]).all())


def _ridge(gram: np.ndarray, num_features: int, ratio: float) -> np.ndarray:
    precision = np.array(gram[:num_features, :num_features], order="F")
    precision[np.diag_indices_from(precision)] += ratio
    return precision


def triangle_of(rows: np.ndarray) -> np.ndarray:
    """Return at most F + D rows with the same sums of products as the rows (n, F + D)."""
    if len(rows) <= rows.shape[1]:
        return rows
    return scipy.linalg.qr(rows, mode="r", check_finite=False)[0][: rows.shape[1]]


class NotLearnedError(ValueError):
    """The examples to remove are not among those added."""


class LostToRoundingError(ValueError):
    """The examples to remove outweigh the others so much that rounding has erased the others."""


def remove_rows(factor: Factor, rows: np.ndarray, noise_variances: np.ndarray) -> Factor:
    """Remove examples that were added.

    Args:
        factor: Factor that includes the examples.
        rows: Concatenated features and targets (n, F + D) of the examples.
        noise_variances: Noise variances (D,), the scale on which errors of the residual matter.

    Raises:
        NotLearnedError: If the remaining precision would not be positive definite, or the
            remaining residual would be negative.
        LostToRoundingError: If the remainder would be smaller than its rounding error.
    """
    f = len(factor.root)
    rows = triangle_of(rows)
    y = rows[:, f:]
    whitened = factor.whiten(rows[:, :f])  # P (F, n)
    left = np.eye(len(rows)) - whitened.T @ whitened
    smallest = np.linalg.eigvalsh(left)[0] if len(rows) else 1.0
    if smallest < -_LARGEST_LOSS:
        raise NotLearnedError
    if smallest < _LARGEST_LOSS:
        raise LostToRoundingError
    # R^T R - rows^T rows = R^T (I - P P^T) R.
    inner, failed = lapack.dpotrf(np.eye(f) - whitened @ whitened.T, lower=True, clean=True)
    if failed:
        raise LostToRoundingError
    root = inner.T @ factor.root
    projected = scipy.linalg.solve_triangular(inner, factor.projected - whitened @ y, lower=True)
    error = y - whitened.T @ factor.projected
    residual = factor.residual - error.T @ np.linalg.solve(left, error)
    before, after = np.diag(factor.residual), np.diag(residual)
    if (after < -_LARGEST_LOSS * (before + noise_variances)).any():
        raise NotLearnedError
    if (after + noise_variances < _LARGEST_LOSS * before).any():
        raise LostToRoundingError
    return Factor(root, projected, residual)


def quadratic_forms(factor: Factor, phi: np.ndarray) -> np.ndarray:
    """Return phi^T (R^T R)^-1 phi (N,) of each row, as a sum of squares, so never negative."""
    result = np.empty(len(phi))
    for i in range(0, len(phi), _ROWS_AT_A_TIME):
        solved = factor.whiten(phi[i : i + _ROWS_AT_A_TIME])
        result[i : i + _ROWS_AT_A_TIME] = np.einsum("fn,fn->n", solved, solved)
    return result


def product_sums(phi: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sums (F + D, F + D) of all products of features (N, F) and targets (N, D)."""
    f = phi.shape[1]
    size = f + y.shape[1]
    result = np.empty((size, size))
    # SciPy's BLAS, as in this whole module. NumPy's BLAS has its own threads, and both would
    # compete for the processors.
    upper = blas.dsyrk(1.0, phi.T)  # zeros below the diagonal
    result[:f, :f] = upper + upper.T
    result[np.arange(f), np.arange(f)] /= 2
    result[:f, f:] = blas.dgemm(1.0, phi.T, y.T, trans_b=True)
    result[f:, :f] = result[:f, f:].T
    result[f:, f:] = y.T @ y
    return result


def _threads_for(work: int) -> contextlib.AbstractContextManager[Any]:
    """Return a context with one thread of BLAS for little work, or else with all.

    LAPACK calls BLAS many times, and each time all threads wait for the slowest one. With other
    programs on the machine, this takes many times as long as the work.

    Args:
        work: Number of multiplications.
    """
    if work > _LITTLE_WORK:
        return contextlib.nullcontext()
    return _thread_pools().limit(limits=1, user_api="blas")


@functools.cache
def _thread_pools() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def greedy_batch(whitened: np.ndarray, noise: np.ndarray, size: int) -> np.ndarray:
    """Pick rows one by one, each with the largest variance given the targets of those before.

    The variance is summed over outputs.

    Args:
        whitened: Features (D, F, N) for each output, or (1, F, N) for all outputs, whose inner
            products are posterior covariances. The array is overwritten.
        noise: Variances (D,) of the noise.
        size: Number of rows to pick.

    Returns:
        Positions (size,) in the order picked.
    """
    picked: list[int] = []
    while True:
        variance = np.einsum("dfn,dfn->n", whitened, whitened)
        variance[picked] = -np.inf
        picked.append(int(np.argmax(variance)))
        if len(picked) == size:
            return np.array(picked)
        for z, noise_variance in zip(whitened, noise):
            column = z[:, picked[-1]].copy()
            length = column @ column
            if length > 0:
                # Multiply by the symmetric root of I - z z^T / (noise + |z|^2), the remaining
                # covariance after z is observed.
                shrink = (1 - np.sqrt(noise_variance / (noise_variance + length))) / length
                z -= np.outer(shrink * column, column @ z)


def greedy_batch_mean_field(
    variances: np.ndarray, phi: np.ndarray, noise: np.ndarray, size: int
) -> np.ndarray:
    """Pick rows as `greedy_batch` does, for independent weights with `variances` (F, D)."""
    precision = 1 / variances
    squares = phi**2
    picked: list[int] = []
    while len(picked) < size:
        variance = (squares @ (1 / precision)).sum(1)
        variance[picked] = -np.inf
        picked.append(int(np.argmax(variance)))
        precision += squares[picked[-1]][:, None] / noise
    return np.array(picked)
