"""Embeddings of words, or of any categories, that are random."""

import keras
import tensorflow as tf

from tfp_bayes.layers.dropout import check_rate, draw_mask
from tfp_bayes.layers.stochastic import StochasticLayer


@keras.saving.register_keras_serializable("tfp_bayes")
class MCEmbedding(StochasticLayer, keras.layers.Embedding):
    """Embedding with dropout of whole words, wherever in a sequence they stand.

    Use it before a recurrent layer or a transformer. A dropped word is zero at all of its places,
    which makes the mask a draw of the embedding table; `MCDropout` behind an embedding would drop
    a word here and keep it there. Stays on at inference, as `MCDropout`.

    Args:
        input_dim: V, the size of the vocabulary.
        output_dim: Size of the embedding.
        rate: Float in [0, 1), the probability that a word is set to zero.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Embedding`.

    Randomness:
        `training=True`: one mask over the vocabulary for each example, so (B, V) random numbers.
        `training=False`: one mask for the whole batch. Words that stay are scaled by
        1 / (1 - rate), so the mean is the embedding.

    Losses:
        None.

    Raises:
        ValueError: If `rate` is outside [0, 1).

    Reference:
        Gal and Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent
        Neural Networks", section 4.2, arXiv:1512.05287: rows of the table are m_v e_v / (1 - rate)
        with m_v ~ Bernoulli(1 - rate).

    Example:

    >>> layer = MCEmbedding(10, 4, rate=0.5, seed=0)
    >>> y = layer(np.array([[1, 2, 1]]))
    >>> bool(np.all(y[0, 0] == y[0, 2]))  # one word is kept or dropped at both places
    True
    """

    def __init__(
        self, input_dim: int, output_dim: int, *, rate: float, seed: int | None = None, **kwargs
    ):
        check_rate(rate=rate)
        super().__init__(input_dim, output_dim, seed=seed, **kwargs)
        self.rate = rate

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns embeddings (B, ..., output_dim) of integers (B, ...)."""
        embedded = super().call(inputs)
        if self.rate == 0:
            return embedded
        words = tf.cast(inputs, tf.int32)
        shape = (tf.shape(words)[0] if training else 1, self.input_dim)
        mask = draw_mask(shape, self.rate, self.draw_seed(training), self.compute_dtype)
        # In training an example looks its words up in a mask of its own.
        mask = tf.gather(mask, words, batch_dims=1) if training else tf.gather(mask[0], words)
        return embedded * mask[..., tf.newaxis]

    def compute_output_spec(self, inputs, training: bool = False) -> keras.KerasTensor:
        """Returns shape and dtype of the outputs, in either mode."""
        return super().compute_output_spec(inputs)

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
        return {**super().get_config(), "rate": self.rate}
