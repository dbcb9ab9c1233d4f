"""Attention whose weights are dropped at inference too, or whose projections are random."""

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import replace_attention_dropout, replace_projections
from tfp_bayes.layers.dropout import MCDropout, check_rate
from tfp_bayes.layers.einsum_dense import (
    EinsumDenseFlipout,
    EinsumDenseLocalReparameterization,
    EinsumDenseReparameterization,
)
from tfp_bayes.layers.variational import VariationalLayer, check_honoured

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("tfp_bayes")
class MCMultiHeadAttention(keras.layers.MultiHeadAttention):
    """Multi-head attention whose dropout stays on at inference.

    Use it in place of a `keras.layers.MultiHeadAttention` with dropout where a transformer should
    know how sure it is. What is dropped are attention weights, which are not normalized again.

    Args:
        num_heads: Number of heads, N.
        key_dim: Size of each head's queries and keys.
        dropout: Float in [0, 1), the probability that an attention weight is set to zero.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.MultiHeadAttention`, by name.

    Randomness:
        That of an `MCDropout` of the attention weights (B, N, T, S). `training=True`: one mask for
        each example. `training=False`: one mask (1, N, T, S) for the whole batch. It belongs to
        positions: sequences padded to another length are given another mask by the same seed.

    Losses:
        None.

    Raises:
        ValueError: If `dropout` is outside [0, 1).

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", equation 1, arXiv:1706.03762, with masks
        m ~ Bernoulli(1 - p): (softmax(Q K^T / sqrt(d)) m / (1 - p)) V.

    Example:

    >>> layer = MCMultiHeadAttention(2, 4, dropout=0.3, seed=0)
    >>> x = np.ones((2, 5, 8))
    >>> y = layer(x, x)  # one mask: equal sequences stay equal
    >>> bool(np.all(y[0] == y[1])), bool(np.all(y == layer(x, x)))
    (True, False)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        *,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        check_rate(dropout=dropout)
        super().__init__(num_heads, key_dim, dropout=dropout, seed=seed, **kwargs)

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Makes the weights of the projections, and the dropout."""
        super().build(query_shape, value_shape, key_shape)
        dropout = MCDropout(self.dropout, seed=self.seed, dtype=self.dtype_policy, name="dropout")
        replace_attention_dropout(self, dropout)


def projection_seed(seed: int | None, name: str) -> int | None:
    """Derives the seed of a projection: those of queries and keys must not draw the same."""
    if seed is None:
        return None
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0])


class _RandomMultiHeadAttention(keras.layers.MultiHeadAttention):
    """Multi-head attention with a random kernel and bias in each of its projections."""

    projection: type[VariationalLayer]
    beliefs = VariationalLayer.beliefs

    def __init__(self, num_heads: int, key_dim: int, *, seed: int | None = None, **kwargs):
        parts = [f"{name}_{part}" for name in self.beliefs for part in ("prior", "posterior")]
        beliefs = {part: kwargs.pop(part) for part in parts if part in kwargs}
        check_honoured(type(self).__name__, kwargs)
        super().__init__(num_heads, key_dim, seed=seed, **kwargs)
        # A projection that is never built reads and checks what all of them are given.
        unused = {"bias_axes": "c", "kernel_initializer": "zeros"}
        config = self.projection("ab,bc->ac", 1, seed=0, **unused, **beliefs).get_config()
        self._beliefs = {part: config[part] for part in parts}

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Makes the projections, and with them the parameters of the posteriors."""
        super().build(query_shape, value_shape, key_shape)
        replace_projections(self, self._random_projection)

    def _random_projection(self, plain: keras.layers.EinsumDense) -> VariationalLayer:
        seed = projection_seed(self.seed, plain.name)
        config = {**plain.get_config(), **self._beliefs, "seed": seed}
        random = self.projection.from_config(config)
        random.build(plain.get_build_config()["input_shape"])
        return random

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
        return {**super().get_config(), **self._beliefs}


@keras.saving.register_keras_serializable("tfp_bayes")
class MultiHeadAttentionReparameterization(_RandomMultiHeadAttention):
    """Multi-head attention that projects with `EinsumDenseReparameterization`.

    Use it with a posterior that is not mean-field. Arguments, randomness, losses and errors are
    those of `MultiHeadAttentionFlipout`, but for the estimator.

    Example:

    >>> layer = MultiHeadAttentionReparameterization(2, 4, kernel_posterior="low_rank_normal")
    >>> layer(np.ones((2, 5, 8)), np.ones((2, 3, 8))).shape
    TensorShape([2, 5, 8])
    """

    projection = EinsumDenseReparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class MultiHeadAttentionLocalReparameterization(_RandomMultiHeadAttention):
    """Multi-head attention that projects with `EinsumDenseLocalReparameterization`.

    In training each position of a sequence has noise of its own, so that the correlation which a
    shared kernel gives them is lost; `MultiHeadAttentionFlipout` keeps it. Arguments, randomness,
    losses and errors are those of `MultiHeadAttentionFlipout`, but for the estimator.

    Example:

    >>> layer = MultiHeadAttentionLocalReparameterization(2, 4, seed=0)
    >>> layer(np.ones((2, 5, 8)), np.ones((2, 3, 8)), training=True).shape
    TensorShape([2, 5, 8])
    """

    projection = EinsumDenseLocalReparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class MultiHeadAttentionFlipout(_RandomMultiHeadAttention):
    """Multi-head attention that projects with `EinsumDenseFlipout`.

    The usual choice of the three: examples are independent, and the positions of one example keep
    the correlation that their shared kernels give.

    Args:
        num_heads: Number of heads.
        key_dim: Size of each head's queries and keys.
        kernel_prior: Prior on the kernels of the projections of queries, keys, values and outputs;
            with `kernel_posterior`, `bias_prior` and `bias_posterior`, see `VariationalLayer`.
        seed: Integer or None; each projection has noise of its own.
        **kwargs: Arguments of `keras.layers.MultiHeadAttention`. Its `dropout` acts in training
            only, as in Keras; it is no part of the posterior.

    Randomness:
        `training=False`: one draw of all projections for the whole batch. `training=True`: that
        of the estimator, in each projection.

    Losses:
        In training, KL(q || prior) of each projection.

    Raises:
        ValueError: See `VariationalLayer`.

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2, arXiv:1706.03762, with
        random W^Q, W^K, W^V and W^O; `estimators.flipout` for each.

    Example:

    >>> layer = MultiHeadAttentionFlipout(2, 4, seed=0)
    >>> x = np.ones((2, 5, 8))
    >>> y = layer(x, x)  # one draw: equal sequences stay equal
    >>> bool(np.all(y[0] == y[1]))
    True
    """

    projection = EinsumDenseFlipout
