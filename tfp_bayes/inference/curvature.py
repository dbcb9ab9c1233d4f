"""The curvature of a softmax likelihood in the last layer's weights, exact or approximated.

With weights W (F, K) and features phi_n (F,), the matrix of second derivatives of the negative log
likelihood is H = sum_n L_n x phi_n phi_n^T, where x is the Kronecker product and
L_n = diag(p_n) - p_n p_n^T. Each class below stores H, or an approximation of it, as eigenvalues
and a rotation of the weights to the eigenvectors. The precision of any isotropic prior can then be
added to the eigenvalues.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import scipy.linalg
import tensorflow as tf

Batches = Iterable[tuple[np.ndarray, np.ndarray]]  # features (B, F) and probabilities (B, K)


class Curvature(Protocol):
    """H in coordinates along its eigenvectors, in which the weights are independent."""

    eigenvalues: np.ndarray  # has the shape of the coordinates

    @classmethod
    def of(cls, batches: Batches) -> "Curvature":
        """Compute H from all batches."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the constructor's arguments."""

    def rotate(self, coordinates: tf.Tensor) -> tf.Tensor:
        """Convert coordinates along the eigenvectors to weights (F, K)."""

    def logit_covariance(self, phi: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Return the covariance (N, K, K) of phi^T W, given the variance of each coordinate."""


class Full(tf.Module):
    """The exact H, a matrix of K F x K F numbers."""

    def __init__(self, eigenvalues: np.ndarray, vectors: np.ndarray):
        super().__init__()
        self.eigenvalues = eigenvalues  # (K F,)
        self.vectors = tf.Variable(vectors, trainable=False)  # (K, F, K F)

    @classmethod
    def of(cls, batches: Batches) -> "Full":
        """See `Curvature.of`."""
        hessian = None
        for phi, p in batches:
            num_features, num_classes = phi.shape[1], p.shape[1]
            if hessian is None:
                hessian = np.zeros((num_classes, num_features, num_classes, num_features))
            for k in range(num_classes):
                for j in range(k + 1):
                    weights = p[:, k] * ((j == k) - p[:, j])  # (B,)
                    block = phi.T @ (weights[:, None] * phi)
                    hessian[k, :, j] += block
                    if j < k:
                        hessian[j, :, k] += block
        assert hessian is not None  # there is at least one batch
        size = num_classes * num_features
        values, vectors = scipy.linalg.eigh(hessian.reshape(size, size))
        return cls(np.maximum(values, 0), vectors.reshape(num_classes, num_features, size))

    def get_state(self) -> dict[str, np.ndarray]:
        """See `Curvature.get_state`."""
        return {"eigenvalues": self.eigenvalues, "vectors": self.vectors.numpy()}

    def rotate(self, coordinates: tf.Tensor) -> tf.Tensor:
        """Convert coordinates (K F,) along the eigenvectors to weights (F, K)."""
        return tf.einsum("kfp,p->fk", self.vectors, coordinates)

    def logit_covariance(self, phi: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Return the covariance (N, K, K) of phi^T W, given the coordinates' variances (K F,)."""
        root = np.stack([phi @ v for v in self.vectors.numpy()], axis=1) * np.sqrt(variances)
        return root @ root.transpose(0, 2, 1)


class Kronecker(tf.Module):
    """H approximated by N E[L] x E[phi phi^T], exact if L_n does not depend on the features."""

    def __init__(
        self, eigenvalues: np.ndarray, input_vectors: np.ndarray, output_vectors: np.ndarray
    ):
        super().__init__()
        self.eigenvalues = eigenvalues  # (F, K)
        self.input_vectors = tf.Variable(input_vectors, trainable=False)  # (F, F)
        self.output_vectors = tf.Variable(output_vectors, trainable=False)  # (K, K)

    @classmethod
    def of(cls, batches: Batches) -> "Kronecker":
        """See `Curvature.of`."""
        count, gram, curvature = 0, np.zeros(()), np.zeros(())
        for phi, p in batches:
            count += len(phi)
            gram = gram + phi.T @ phi
            curvature = curvature + np.diag(p.sum(0)) - p.T @ p
        a, input_vectors = scipy.linalg.eigh(gram)
        b, output_vectors = scipy.linalg.eigh(curvature / count)
        return cls(np.outer(np.maximum(a, 0), np.maximum(b, 0)), input_vectors, output_vectors)

    def get_state(self) -> dict[str, np.ndarray]:
        """See `Curvature.get_state`."""
        return {
            "eigenvalues": self.eigenvalues,
            "input_vectors": self.input_vectors.numpy(),
            "output_vectors": self.output_vectors.numpy(),
        }

    def rotate(self, coordinates: tf.Tensor) -> tf.Tensor:
        """Convert coordinates (F, K) along the eigenvectors to weights (F, K)."""
        return self.input_vectors @ coordinates @ tf.transpose(self.output_vectors)

    def logit_covariance(self, phi: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Return the covariance (N, K, K) of phi^T W, given the coordinates' variances (F, K)."""
        vectors = self.output_vectors.numpy()
        scales = (phi @ self.input_vectors.numpy()) ** 2 @ variances  # (N, K)
        return (vectors * scales[:, None]) @ vectors.T


class Shared(Kronecker):
    """H approximated by sum_n w_n phi_n phi_n^T, the same for all directions of the logits.

    The only exception is the direction that shifts all logits equally, where the curvature is 0.
    This approximates L_n by w_n (I - 1 1^T / K), with w_n = (1 - |p_n|^2) / (K - 1) so that the
    trace is right. It is exact for two classes, and where all classes have the same probability.
    """

    @classmethod
    def of(cls, batches: Batches) -> "Shared":
        """See `Curvature.of`."""
        gram, num_classes = np.zeros(()), 0
        for phi, p in batches:
            num_classes = p.shape[1]
            weights = (1 - np.square(p).sum(1)) / (num_classes - 1)
            gram = gram + phi.T @ (weights[:, None] * phi)
        values, input_vectors = scipy.linalg.eigh(gram)
        # The first column is the common shift of all logits, which a softmax does not determine.
        output_vectors = scipy.linalg.helmert(num_classes, full=True).T
        is_seen = np.arange(num_classes) > 0
        return cls(np.outer(np.maximum(values, 0), is_seen), input_vectors, output_vectors)


class Diagonal(tf.Module):
    """The diagonal of H, which makes all weights independent."""

    def __init__(self, eigenvalues: np.ndarray):
        super().__init__()
        self.eigenvalues = eigenvalues  # (F, K)

    @classmethod
    def of(cls, batches: Batches) -> "Diagonal":
        """See `Curvature.of`."""
        return cls(sum((phi**2).T @ (p * (1 - p)) for phi, p in batches))

    def get_state(self) -> dict[str, np.ndarray]:
        """See `Curvature.get_state`."""
        return {"eigenvalues": self.eigenvalues}

    def rotate(self, coordinates: tf.Tensor) -> tf.Tensor:
        """Return the coordinates, which are the weights (F, K) themselves."""
        return coordinates

    def logit_covariance(self, phi: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Return the covariance (N, K, K) of phi^T W, given the weights' variances (F, K)."""
        return (phi**2 @ variances)[:, :, None] * np.eye(variances.shape[1])


CURVATURES: dict[str, type[Full | Kronecker | Shared | Diagonal]] = {
    "full": Full,
    "kronecker": Kronecker,
    "shared": Shared,
    "diagonal": Diagonal,
}
