"""The marginal likelihood of a linear regression and the scales that maximize it."""

import copy

import numpy as np
import scipy.linalg
import scipy.special

from tfp_bayes._plumbing.optimize import minimize_from_grid
from tfp_bayes.layers.conjugate import Factor


class Evidence:
    """The log marginal likelihood as a function of r = sigma^2 / s^2 and sigma.

    One singular value decomposition is computed and used for every r.

    Args:
        data: Factor of the data without a prior (r = 0).
        count: Number of examples N, or N - 1 with an intercept.
        output_covariance: Sigma (D, D), or None if it has an inverse Wishart prior with `degrees`
            degrees of freedom and scale matrix `scatter`.
        degrees: Prior degrees of freedom nu_0.
        scatter: Prior scale matrix Psi_0 (D, D).

    Reference:
        MacKay 1992, "Bayesian Interpolation", equations 2.9 and 2.20; Bishop 2006, "Pattern
        Recognition and Machine Learning", equation 3.86.
    """

    def __init__(
        self,
        data: Factor,
        count: float,
        output_covariance: np.ndarray | None,
        degrees: float,
        scatter: np.ndarray,
    ):
        self.residual_without_prior = data.residual
        self.count = count
        self.output_covariance = output_covariance
        self.degrees, self.scatter = degrees, scatter
        # With fewer examples than features, the last rows contain nothing but rounding errors.
        lengths = np.linalg.norm(data.root, axis=1)
        exact = lengths > len(lengths) * np.finfo("float64").eps * lengths.max(initial=0.0)
        rows = int(np.flatnonzero(exact).max(initial=0)) + 1
        vectors, singular, _ = scipy.linalg.svd(data.root[:rows], full_matrices=False)
        self.eigenvalues = singular**2  # of Phi^T Phi, except zeros
        self.projected = vectors.T @ data.projected[:rows]

    def of_output(self, index: int) -> "Evidence":
        """Return the evidence of a single output without a new decomposition."""
        one = copy.copy(self)
        at = slice(index, index + 1)
        one.projected = self.projected[:, at]
        one.residual_without_prior = self.residual_without_prior[at, at]
        one.output_covariance = np.eye(1)
        return one

    def residual(self, ratio: float) -> np.ndarray:
        """Return Y^T Y - M^T (Phi^T Phi + r I) M (D, D), as a sum without cancellation."""
        shrunk = self.projected * (ratio / (self.eigenvalues + ratio))[:, None]
        return self.residual_without_prior + self.projected.T @ shrunk

    def log_marginal_likelihood(self, ratio: float, noise_scale: float) -> float:
        """Return log p(Y | Phi) in nats."""
        log_det = np.log1p(self.eigenvalues / ratio).sum()
        return log_density(
            self.residual(ratio) / noise_scale**2,
            self.count,
            log_det,
            noise_scale,
            self.output_covariance,
            self.degrees,
            self.scatter,
        )

    def best_noise_scale(self, ratio: float) -> float:
        """Return the sigma that maximizes the evidence for a given r and a known Sigma."""
        assert self.output_covariance is not None  # otherwise `maximize` gets a fixed sigma
        residual = self.residual(ratio)
        explained = np.trace(np.linalg.solve(self.output_covariance, residual))
        # Targets without any noise would give sigma = 0, which later computations divide by.
        total = np.trace(self.residual_without_prior) + np.sum(self.projected**2)
        return float(np.sqrt(max(explained, 1e-24 * total) / (self.count * len(residual))))

    def maximize(self, noise_scale: float | None = None) -> tuple[float, float]:
        """Return the prior scale s and the noise scale sigma that maximize the evidence.

        Args:
            noise_scale: Fixed sigma, or None to optimize sigma too.
        """

        def sigma(ratio: float) -> float:
            return self.best_noise_scale(ratio) if noise_scale is None else noise_scale

        def objective(log_ratio: float) -> float:
            ratio = np.exp(log_ratio)
            return -self.log_marginal_likelihood(ratio, sigma(ratio))

        # The evidence may have several local maxima in r.
        top = np.log(max(self.eigenvalues.max(initial=0.0), 1e-300))
        best = minimize_from_grid(objective, np.linspace(top - 56, top + 12, 137), 1e-10)
        ratio = float(np.exp(best))
        return sigma(ratio) / np.sqrt(ratio), sigma(ratio)

    @property
    def outputs_that_vary(self) -> np.ndarray:
        """Booleans (D,), False for outputs whose (centered) targets are all zero."""
        squares = np.diag(self.residual_without_prior) + np.sum(self.projected**2, axis=0)
        return squares > 0


def log_density(
    residual: np.ndarray,
    count: float,
    log_det: float,
    noise_scale: float,
    output_covariance: np.ndarray | None,
    degrees: float,
    scatter: np.ndarray,
) -> float:
    """Return log p(Y | Phi) in nats from its sufficient statistics.

    Args:
        residual: Residual (D, D) in units of sigma^2.
        count: Number of examples N, see `Evidence`.
        log_det: log |Phi^T Phi + r I| - log |r I|.
        noise_scale: Noise scale sigma.
        output_covariance: See `Evidence`.
        degrees: See `Evidence`.
        scatter: See `Evidence`.
    """
    n, d = count, len(residual)
    volume = log_det * d + 2 * n * d * np.log(noise_scale)
    if output_covariance is not None:
        volume += n * np.linalg.slogdet(output_covariance)[1]
        explained = np.trace(np.linalg.solve(output_covariance, residual))
        return float(-0.5 * (n * d * np.log(2 * np.pi) + volume + explained))
    before, after = degrees, degrees + n
    return float(
        -0.5 * (n * d * np.log(np.pi) + volume)
        + 0.5 * before * np.linalg.slogdet(scatter)[1]
        - 0.5 * after * np.linalg.slogdet(scatter + residual)[1]
        + scipy.special.multigammaln(after / 2, d)
        - scipy.special.multigammaln(before / 2, d)
    )
