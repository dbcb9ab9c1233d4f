"""Recurrent layers whose dropout never switches off, or whose weights are random."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import (
    cell_with_weights,
    num_dropout_masks,
    requested_weights,
    set_dropout_masks,
)
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.layers.dropout import check_rate, draw_mask
from tfp_bayes.layers.stochastic import StochasticLayer
from tfp_bayes.layers.variational import POINT, UNCERTAIN, VariationalLayer


def refuse_stateful(layer: keras.layers.RNN) -> None:
    """Raises ValueError if a recurrent layer goes on where its last call ended."""
    if layer.stateful:
        raise ValueError(
            f"Expected stateful=False for {layer.name!r}. Received: stateful=True, under which a "
            "sample would depend on what was predicted before. "
            "Hint: return_state=True and initial_state= pass states on explicitly."
        )


class _MCRecurrent(StochasticLayer):
    """A Keras recurrent layer whose masks are drawn here, in training and at inference."""

    keras_takes_seed = True  # for its cell, which draws no mask any more

    def __init__(
        self,
        units: int,
        *,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        rates = {"dropout": dropout, "recurrent_dropout": recurrent_dropout}
        check_rate(**rates)
        super().__init__(units, seed=seed, **rates, **kwargs)
        refuse_stateful(self)

    def call(
        self,
        sequences: tf.Tensor,
        initial_state: list[tf.Tensor] | None = None,
        mask: tf.Tensor | None = None,
        training: bool = False,
    ):
        """Returns what the Keras layer returns, under masks of `dropout` and `recurrent_dropout`.

        Args:
            sequences: Inputs (B, T, F).
            initial_state: States (B, units), None for zeros.
            mask: Booleans (B, T), False where a step is left out.
            training: Whether each example has masks of its own.
        """
        seed = self.draw_seed(training)
        rows = tf.shape(sequences)[0] if training else 1
        set_dropout_masks(
            self.cell,
            self._draw_masks(self.dropout, rows, sequences.shape[-1], fold_in(seed, 0)),
            self._draw_masks(self.recurrent_dropout, rows, self.units, fold_in(seed, 1)),
        )
        # A cell applies its masks in training only, so it is told so in either mode.
        return super().call(sequences, initial_state=initial_state, mask=mask, training=True)

    def _draw_masks(self, rate: float, rows: tf.Tensor | int, width: int, seed: tf.Tensor):
        if rate == 0:
            return None
        count = num_dropout_masks(self.cell)
        masks = tf.unstack(draw_mask((count or 1, rows, width), rate, seed, self.compute_dtype))
        return masks if count else masks[0]


@keras.saving.register_keras_serializable("tfp_bayes")
class MCLSTM(_MCRecurrent, keras.layers.LSTM):
    """LSTM whose dropout stays on at inference, so that passes are posterior samples.

    Use it in place of a `keras.layers.LSTM` with dropout where the network should know how sure
    it is. A mask is drawn once for a sequence and is the same at every step, which makes it a
    draw of the layer's weights. `MCEmbedding` drops words in the same way.

    Args:
        units: Size of the state.
        dropout: Float in [0, 1), the probability that an input unit is set to zero.
        recurrent_dropout: Float in [0, 1), likewise for units of the recurrent state.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.LSTM`, by name.

    Randomness:
        `training=True`: masks for each example. `training=False`: one set of masks for the whole
        batch. As in Keras, all gates share one mask of the inputs (Gal's tied weights) unless
        `recurrent_dropout` > 0, with which each gate has masks of its own (untied weights).

    Losses:
        None. The prior of Monte Carlo dropout is `BayesianModel(..., prior_scale=)`.

    Raises:
        ValueError: If a rate is outside [0, 1), or for `stateful=True`.

    Reference:
        Gal and Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent
        Neural Networks", equations 4 and 7, arXiv:1512.05287: x_t z_x and h_{t-1} z_h in place of
        x_t and h_{t-1}, with masks z that do not depend on t.

    Example:

    >>> layer = MCLSTM(4, dropout=0.2, recurrent_dropout=0.1, seed=0)
    >>> y = layer(np.ones((2, 5, 3)))  # one set of masks: equal sequences stay equal
    >>> bool(np.all(y[0] == y[1]))
    True
    """


@keras.saving.register_keras_serializable("tfp_bayes")
class MCGRU(_MCRecurrent, keras.layers.GRU):
    """GRU whose dropout stays on at inference, so that passes are posterior samples.

    Arguments, randomness and errors are those of `MCLSTM`, with `keras.layers.GRU` for
    `keras.layers.LSTM`.

    Example:

    >>> layer = MCGRU(4, dropout=0.2, seed=0)
    >>> layer(np.ones((2, 5, 3)), training=True).shape
    TensorShape([2, 4])
    """


class _RecurrentReparameterization(VariationalLayer):
    """A Keras recurrent layer whose cell computes with weights that are drawn here."""

    beliefs = {"kernel": UNCERTAIN, "recurrent_kernel": UNCERTAIN, "bias": POINT}
    keras_takes_seed = True  # for the dropout of its cell, in training

    def __init__(self, units: int, *args, seed: int | None = None, **kwargs):
        super().__init__(units, *args, seed=seed, **kwargs)
        refuse_stateful(self)

    def build(
        self, sequences_shape: tuple[int | None, ...], initial_state_shape: tuple | None = None
    ) -> None:
        """Makes the parameters of the posteriors and what the priors learn."""
        weights = requested_weights(self.cell, (sequences_shape[0], sequences_shape[-1]))
        self.add_random_weights(**{name: weights.get(name) for name in self.beliefs})
        self.built = True

    def call(
        self,
        sequences: tf.Tensor,
        initial_state: list[tf.Tensor] | None = None,
        mask: tf.Tensor | None = None,
        training: bool = False,
    ):
        """Returns what the Keras layer returns under one draw of its weights.

        Args:
            sequences: Inputs (B, T, F).
            initial_state: States (B, units), None for zeros.
            mask: Booleans (B, T), False where a step is left out.
            training: Whether to add the KL divergence, and to drop as the Keras layer does.
        """
        seed = self.draw_seed(training)
        draws = self.draw_weights(seed)
        if training:
            self.add_kl(draws, seed)
        weights = {name: tf.cast(d.value, self.compute_dtype) for name, d in draws.items()}
        with cell_with_weights(self.cell, **weights):
            return super().call(
                sequences, initial_state=initial_state, mask=mask, training=training
            )


@keras.saving.register_keras_serializable("tfp_bayes")
class LSTMReparameterization(_RecurrentReparameterization, keras.layers.LSTM):
    """LSTM whose weights are drawn from a posterior, once for a sequence (Bayes by Backprop).

    Use it where a recurrent network should be unsure far from its data. Wherever a step of the
    sequence stands, it sees the same draw: the pass is a draw of a function.

    Args:
        units: Size of the state.
        kernel_prior: With `kernel_posterior` and `recurrent_kernel_...`, `bias_...` likewise: see
            `VariationalLayer`.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.LSTM`. Its `dropout` and `recurrent_dropout` act in
            training only, as in Keras; they are no part of the posterior.

    Randomness:
        One draw of all weights for each call, in training as at inference. The examples of a
        batch share it in training too, so gradients vary more than those of Flipout: by a part
        that larger batches do not reduce. `seed` fixes it.

    Losses:
        In training, KL(q || prior) of both kernels and the bias, once for a sequence.

    Raises:
        ValueError: See `VariationalLayer`; or for `stateful=True`.

    Reference:
        Fortunato, Blundell and Vinyals 2017, "Bayesian Recurrent Neural Networks", equation 5
        and algorithm 1, arXiv:1704.02798.

    Example:

    >>> layer = LSTMReparameterization(4, seed=0)
    >>> y = layer(np.ones((2, 5, 3)))  # one draw: equal sequences stay equal
    >>> bool(np.all(y[0] == y[1]))
    True
    """


@keras.saving.register_keras_serializable("tfp_bayes")
class GRUReparameterization(_RecurrentReparameterization, keras.layers.GRU):
    """GRU whose weights are drawn from a posterior, once for a sequence (Bayes by Backprop).

    Arguments, randomness, losses and errors are those of `LSTMReparameterization`, with
    `keras.layers.GRU` for `keras.layers.LSTM`.

    Example:

    >>> layer = GRUReparameterization(4, seed=0)
    >>> layer(np.ones((2, 5, 3)), training=True).shape
    TensorShape([2, 4])
    """
