"""Multi-head attention with dropout at inference or with random projections."""

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

    Use it in place of `keras.layers.MultiHeadAttention` with dropout to get the uncertainty of a
    transformer's predictions. Dropout acts on the normalized attention weights, which are not
    normalized again.

    Args:
        num_heads: Number of heads, N.
        key_dim: Size of each head's queries and keys.
        dropout: Float in [0, 1), the probability that an attention weight is set to zero.
        seed: Integer or None.
        **kwargs: Keyword arguments of `keras.layers.MultiHeadAttention`.

    Randomness:
        An `MCDropout` of the attention weights (B, N, T, S). `training=True`: one mask for each
        example. `training=False`: one mask (1, N, T, S) for the whole batch. The mask depends on
        the sequence length: after padding to another length, the same seed gives another mask.

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
        """Create the weights of the projections and the dropout layer."""
        super().build(query_shape, value_shape, key_shape)
        dropout = MCDropout(self.dropout, seed=self.seed, dtype=self.dtype_policy, name="dropout")
        replace_attention_dropout(self, dropout)


def projection_seed(seed: int | None, name: str) -> int | None:
    """Derive the seed of one projection, so that projections draw different weights."""
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
        # One projection, never built, checks and normalizes the arguments that all of them share.
        unused = {"bias_axes": "c", "kernel_initializer": "zeros"}
        config = self.projection("ab,bc->ac", 1, seed=0, **unused, **beliefs).get_config()
        self._beliefs = {part: config[part] for part in parts}

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Create the projections and with them the parameters of the posteriors."""
        super().build(query_shape, value_shape, key_shape)
        replace_projections(self, self._random_projection)

    def _random_projection(self, plain: keras.layers.EinsumDense) -> VariationalLayer:
        seed = projection_seed(self.seed, plain.name)
        config = {**plain.get_config(), **self._beliefs, "seed": seed}
        random = self.projection.from_config(config)
        random.build(plain.get_build_config()["input_shape"])
        return random

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        return {**super().get_config(), **self._beliefs}


@keras.saving.register_keras_serializable("tfp_bayes")
class MultiHeadAttentionReparameterization(_RandomMultiHeadAttention):
    """Multi-head attention whose projections are `EinsumDenseReparameterization` layers.

    Use it with a posterior that is not mean-field. Except for the estimator, arguments,
    randomness, losses and errors are those of `MultiHeadAttentionFlipout`.

    Example:

    >>> layer = MultiHeadAttentionReparameterization(2, 4, kernel_posterior="low_rank_normal")
    >>> layer(np.ones((2, 5, 8)), np.ones((2, 3, 8))).shape
    TensorShape([2, 5, 8])
    """

    projection = EinsumDenseReparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class MultiHeadAttentionLocalReparameterization(_RandomMultiHeadAttention):
    """Multi-head attention whose projections are `EinsumDenseLocalReparameterization` layers.

    In training the noise of each position of a sequence is independent, so the correlation
    between positions that share a kernel is lost. `MultiHeadAttentionFlipout` keeps it. Except
    for the estimator, arguments, randomness, losses and errors are those of
    `MultiHeadAttentionFlipout`.

    Example:

    >>> layer = MultiHeadAttentionLocalReparameterization(2, 4, seed=0)
    >>> layer(np.ones((2, 5, 8)), np.ones((2, 3, 8)), training=True).shape
    TensorShape([2, 5, 8])
    """

    projection = EinsumDenseLocalReparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class MultiHeadAttentionFlipout(_RandomMultiHeadAttention):
    """Multi-head attention whose projections are `EinsumDenseFlipout` layers.

    The usual choice of the three: the noise of different examples is uncorrelated, and the
    positions of one example keep the correlation that comes from their shared kernels.

    Args:
        num_heads: Number of heads.
        key_dim: Size of each head's queries and keys.
        kernel_prior: Prior on the kernels of the projections of queries, keys, values and outputs.
            For this and for `kernel_posterior`, `bias_prior` and `bias_posterior`, see
            `VariationalLayer`.
        seed: Integer or None. Each projection derives its own seed from it.
        **kwargs: Arguments of `keras.layers.MultiHeadAttention`. Its `dropout` acts in training
            only, as in Keras, and is not part of the posterior.

    Randomness:
        `training=False`: one draw of all projections for the whole batch. `training=True`: the
        noise of the estimator in each projection.

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
