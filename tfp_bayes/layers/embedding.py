"""Random embeddings of words or other categories."""

import keras
import tensorflow as tf

from tfp_bayes.layers.dropout import check_rate, draw_mask
from tfp_bayes.layers.stochastic import StochasticLayer
from tfp_bayes.layers.variational import UNCERTAIN, VariationalLayer


@keras.saving.register_keras_serializable("tfp_bayes")
class MCEmbedding(StochasticLayer, keras.layers.Embedding):
    """Embedding with dropout of whole words that stays on at inference.

    Use it before a recurrent layer or a transformer. A dropped word is zero everywhere in the
    sequence, so each mask is a draw of the embedding table. `MCDropout` after an embedding would
    drop a word at one position and keep it at another.

    Args:
        input_dim: V, the size of the vocabulary.
        output_dim: Size of the embedding.
        rate: Float in [0, 1), the probability that a word is set to zero.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Embedding`.

    Randomness:
        `training=True`: one mask over the vocabulary for each example, so (B, V) random numbers.
        `training=False`: one mask for the whole batch. Kept words are scaled by 1 / (1 - rate), so
        the mean equals the embedding.

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
    >>> bool(np.all(y[0, 0] == y[0, 2]))  # word 1 is kept or dropped at both positions
    True
    """

    def __init__(
        self, input_dim: int, output_dim: int, *, rate: float, seed: int | None = None, **kwargs
    ):
        check_rate(rate=rate)
        super().__init__(input_dim, output_dim, seed=seed, **kwargs)
        self.rate = rate

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return embeddings (B, ..., output_dim) of word numbers (B, ...)."""
        embedded = super().call(inputs)
        if self.rate == 0:
            return embedded
        # Keras counts negative word numbers from the end.
        words = tf.math.floormod(tf.cast(inputs, tf.int32), self.input_dim)
        shape = (tf.shape(words)[0] if training else 1, self.input_dim)
        mask = draw_mask(shape, self.rate, self.draw_seed(training), self.compute_dtype)
        # In training each example looks up its words in its own mask.
        mask = tf.gather(mask, words, batch_dims=1) if training else tf.gather(mask[0], words)
        return embedded * mask[..., tf.newaxis]

    def compute_output_spec(self, inputs, training: bool = False) -> keras.KerasTensor:
        """Return shape and dtype of the outputs, which do not depend on `training`."""
        return super().compute_output_spec(inputs)

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable("tfp_bayes")
class EmbeddingReparameterization(VariationalLayer, keras.layers.Embedding):
    """Embedding whose table is drawn from a posterior.

    Use it where many words are rare: the vector of a word stays as uncertain as under its prior
    until the word occurs in the data. Each call draws the whole table, which takes V times
    `output_dim` random numbers.

    Args:
        input_dim: V, the size of the vocabulary.
        output_dim: Size of the embedding.
        embeddings_prior: See `VariationalLayer`.
        embeddings_posterior: See `VariationalLayer`.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Embedding` except `weights`.

    Randomness:
        One table for each call, in training and at inference, so a word has the same vector at
        every position. All examples of a batch share the noise, so gradients have a higher
        variance than with estimators that draw noise for each example.

    Losses:
        In training, KL(q || prior) of the table, once.

    Raises:
        ValueError: If `weights` is given. See also `VariationalLayer`.

    Reference:
        Blundell et al. 2015, "Weight Uncertainty in Neural Networks", section 3.2,
        arXiv:1505.05424: rows e_v = m_v + s_v z_v, z_v ~ N(0, I).

    Example:

    >>> layer = EmbeddingReparameterization(10, 4, seed=0)
    >>> y = layer(np.array([[1, 2, 1]]), training=True)
    >>> bool(np.all(y[0, 0] == y[0, 2]))
    True
    """

    beliefs = {"embeddings": UNCERTAIN}

    def __init__(self, input_dim: int, output_dim: int, *, seed: int | None = None, **kwargs):
        if kwargs.pop("weights", None) is not None:
            raise ValueError(
                "Expected no `weights` for EmbeddingReparameterization. Received: an array. Hint: "
                "embeddings_initializer=keras.initializers.Constant(table) sets the means."
            )
        super().__init__(input_dim, output_dim, seed=seed, **kwargs)

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Create the parameters of the posteriors and of the priors."""
        shape = (self.input_dim, self.output_dim)
        self.add_random_weights(embeddings=(shape, self.embeddings_initializer))
        self.built = True

    @property
    def embeddings(self) -> tf.Tensor:
        """The mean of the table."""
        return self.random_embeddings.mean()

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return embeddings (B, ..., output_dim) of word numbers (B, ...)."""
        seed = self.draw_seed(training)
        draws = self.draw_weights(seed)
        if training:
            self.add_kl(draws, seed)
        words = tf.cast(inputs, tf.int32)
        embedded = keras.ops.take(draws["embeddings"].value, words, axis=0)
        return tf.cast(embedded, self.compute_dtype)

    def compute_output_spec(self, inputs, training: bool = False) -> keras.KerasTensor:
        """Return shape and dtype of the outputs, which do not depend on `training`."""
        return super().compute_output_spec(inputs)
