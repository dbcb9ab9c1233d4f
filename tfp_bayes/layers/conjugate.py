"""Linear regression under a Gaussian prior, solved: arrays in, arrays out, in float64.

Features Phi (N, F), targets Y (N, D), Y = Phi W + noise. Rows of the noise are N(0, sigma^2 Sigma),
the prior of W is a matrix normal MN(0, s^2 I, Sigma). All that the data say is in `Moments`, which
add up; the ratio r = sigma^2 / s^2 is all that the posterior mean depends on.
"""

import copy
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.special

from tfp_bayes._plumbing.optimize import minimize_from_grid

_ROWS_AT_A_TIME = 8192  # bounds the memory that solving takes


class Moments(NamedTuple):
    """Sums over examples, enough to know the posterior; sums of two data sets add."""

    gram: np.ndarray  # Phi^T Phi (F, F)
    moment: np.ndarray  # Phi^T Y (F, D)
    target_gram: np.ndarray  # Y^T Y (D, D)
    count: float  # N


def moments(features: np.ndarray, targets: np.ndarray) -> Moments:
    """Sums up features (N, F) and targets (N, D)."""
    features, targets = np.asarray(features, "float64"), np.asarray(targets, "float64")
    # SciPy's BLAS, as in all that follows: the threads of NumPy's would be in its way.
    upper = scipy.linalg.blas.dsyrk(1.0, features.T)  # (F, F), zeros below the diagonal
    gram = upper + upper.T
    gram[np.diag_indices_from(gram)] /= 2
    moment = scipy.linalg.blas.dgemm(1.0, features.T, targets.T, trans_b=True)
    return Moments(gram, moment, targets.T @ targets, float(len(features)))


def factorize(gram: np.ndarray, ratio: float) -> np.ndarray:
    """Returns the lower Cholesky factor of Phi^T Phi + r I.

    Raises:
        numpy.linalg.LinAlgError: If rounding leaves it without one.
    """
    ridge = np.array(gram, order="F")
    ridge[np.diag_indices_from(ridge)] += ratio
    factor, failed = scipy.linalg.lapack.dpotrf(ridge, lower=True, overwrite_a=True)
    if failed:
        raise np.linalg.LinAlgError("not positive definite")
    return factor


def solve(factor: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Returns the posterior mean (F, D) from a Cholesky factor (F, F) and Phi^T Y (F, D)."""
    return scipy.linalg.cho_solve((factor, True), moment)


def quadratic_forms(factor: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Returns phi^T (L L^T)^-1 phi of each row (N,), a sum of squares and so never negative."""
    result = np.empty(len(phi))
    for i in range(0, len(phi), _ROWS_AT_A_TIME):
        part = phi[i : i + _ROWS_AT_A_TIME].T
        solved = scipy.linalg.solve_triangular(factor, part, lower=True, check_finite=False)
        result[i : i + _ROWS_AT_A_TIME] = np.einsum("fn,fn->n", solved, solved)
    return result


def greedy_batch(factors: np.ndarray, phi: np.ndarray, noise: np.ndarray, size: int) -> np.ndarray:
    """Picks rows by the largest variance that is left once the targets of those before are known.

    Args:
        factors: (D, F, F) Cholesky factors of the posterior precision, or (1, F, F) of all outputs.
        phi: (N, F).
        noise: (D,) variances of the noise.
        size: Number to pick.

    Returns:
        Positions (size,), by falling sum of variances over outputs.
    """
    # Whitened features: the inner product of two columns is a posterior covariance.
    whitened = np.stack(
        [scipy.linalg.solve_triangular(factor, phi.T, lower=True) for factor in factors]
    )  # (D, F, N)
    picked = []
    while len(picked) < size:
        variance = np.einsum("dfn,dfn->n", whitened, whitened)
        variance[picked] = -np.inf
        picked.append(int(np.argmax(variance)))
        for z, noise_variance in zip(whitened, noise):
            column = z[:, picked[-1]].copy()
            length = column @ column
            if length > 0:
                # The symmetric root of I - z z^T / (noise + |z|^2), which observing z leaves.
                shrink = (1 - np.sqrt(noise_variance / (noise_variance + length))) / length
                z -= np.outer(shrink * column, column @ z)
    return np.array(picked)


def greedy_batch_mean_field(
    variances: np.ndarray, phi: np.ndarray, noise: np.ndarray, size: int
) -> np.ndarray:
    """Picks rows as `greedy_batch` does, under independent weights of `variances` (F, D)."""
    precision = 1 / variances
    squares = phi**2
    picked = []
    while len(picked) < size:
        variance = (squares @ (1 / precision)).sum(1)
        variance[picked] = -np.inf
        picked.append(int(np.argmax(variance)))
        precision += squares[picked[-1]][:, None] / noise
    return np.array(picked)


class Evidence:
    """The log marginal likelihood as a function of r = sigma^2 / s^2 and sigma.

    One eigendecomposition of Phi^T Phi serves every r; of Phi Phi^T, its dual, where there are
    fewer examples than features.

    Args:
        data: Moments of the data.
        output_covariance: Sigma (D, D); or None if it is uncertain, inverse Wishart with
            `degrees` degrees of freedom and scale `scatter`.
        degrees: nu_0.
        scatter: Psi_0 (D, D).
        examples: Phi (N, F) and Y (N, D) themselves if at hand, for the dual.

    Reference:
        MacKay 1992, "Bayesian Interpolation", equations 2.9 and 2.20; Bishop 2006, "Pattern
        Recognition and Machine Learning", equation 3.86.
    """

    def __init__(
        self,
        data: Moments,
        output_covariance: np.ndarray | None,
        degrees: float = 0.0,
        scatter: np.ndarray | None = None,
        examples: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        self.data = data
        self.output_covariance = output_covariance
        self.degrees, self.scatter = degrees, scatter
        # In the eigenbasis V of Phi^T Phi, what the posterior mean follows from: V^T Phi^T Y. A
        # Gram matrix has no eigenvalue below 0; those that the dual lacks are 0 and change nothing.
        if examples is not None and len(examples[0]) < len(data.gram):
            phi, y = examples
            eigenvalues, vectors = scipy.linalg.eigh(phi @ phi.T)
            self.eigenvalues = np.maximum(eigenvalues, 0)  # (N,)
            self.projected = np.sqrt(self.eigenvalues)[:, None] * (vectors.T @ y)  # (N, D)
        else:
            eigenvalues, vectors = scipy.linalg.eigh(data.gram)
            self.eigenvalues = np.maximum(eigenvalues, 0)  # (F,)
            self.projected = vectors.T @ data.moment  # (F, D)

    def of_output(self, index: int) -> "Evidence":
        """Returns the evidence of one output alone, without a new decomposition."""
        one = copy.copy(self)
        at = slice(index, index + 1)
        one.projected = self.projected[:, at]
        one.data = self.data._replace(target_gram=self.data.target_gram[at, at])
        one.output_covariance = np.eye(1)
        return one

    def residual(self, ratio: float) -> np.ndarray:
        """Returns Y^T Y - M^T (Phi^T Phi + r I) M (D, D), what the weights do not explain."""
        scaled = self.projected / (self.eigenvalues + ratio)[:, None]
        return self.data.target_gram - self.projected.T @ scaled

    def log_marginal_likelihood(self, ratio: float, noise_scale: float) -> float:
        """Returns log p(Y | Phi) in nats."""
        n, d = self.data.count, len(self.data.target_gram)
        log_det = np.log1p(self.eigenvalues / ratio).sum() * d + 2 * n * d * np.log(noise_scale)
        residual = self.residual(ratio) / noise_scale**2
        if self.output_covariance is not None:
            log_det += n * np.linalg.slogdet(self.output_covariance)[1]
            explained = np.trace(np.linalg.solve(self.output_covariance, residual))
            return -0.5 * (n * d * np.log(2 * np.pi) + log_det + explained)
        before, after = self.degrees, self.degrees + n
        return (
            -0.5 * (n * d * np.log(np.pi) + log_det)
            + 0.5 * before * np.linalg.slogdet(self.scatter)[1]
            - 0.5 * after * np.linalg.slogdet(self.scatter + residual)[1]
            + scipy.special.multigammaln(after / 2, d)
            - scipy.special.multigammaln(before / 2, d)
        )

    def best_noise_scale(self, ratio: float) -> float:
        """Returns the sigma that maximises the evidence at r, for a known Sigma."""
        residual = self.residual(ratio)
        explained = np.trace(np.linalg.solve(self.output_covariance, residual))
        size = self.data.count * len(residual)
        # Targets without any noise would have sigma = 0, under which nothing can be computed.
        smallest = 1e-12 * max(np.trace(self.data.target_gram), 1e-300)
        return float(np.sqrt(max(explained, smallest) / size))

    def maximize(self, noise_scale: float | None = None) -> tuple[float, float]:
        """Returns the prior scale s and the noise scale sigma of largest evidence.

        Args:
            noise_scale: A fixed sigma, or None to find it too.
        """

        def sigma(ratio: float) -> float:
            return self.best_noise_scale(ratio) if noise_scale is None else noise_scale

        def objective(log_ratio: float) -> float:
            ratio = np.exp(log_ratio)
            return -self.log_marginal_likelihood(ratio, sigma(ratio))

        # The evidence may have several maxima in r.
        top = np.log(max(self.eigenvalues.max(), 1e-300))
        best = minimize_from_grid(objective, np.linspace(top - 30, top + 12, 85), 1e-10)
        ratio = float(np.exp(best))
        return sigma(ratio) / np.sqrt(ratio), sigma(ratio)
