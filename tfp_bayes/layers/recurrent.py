"""Recurrent layers with dropout at inference or with random weights."""

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
    """Raise ValueError if a recurrent layer keeps its state between calls."""
    if layer.stateful:
        raise ValueError(
            f"Expected stateful=False for {layer.name!r}. Received: stateful=True, with which a "
            "sample would depend on earlier predictions. "
            "Hint: pass states explicitly with return_state=True and initial_state=."
        )


class _MCRecurrent(StochasticLayer):
    """A Keras recurrent layer that draws its own masks, in training and at inference."""

    keras_takes_seed = True  # for its cell, which no longer draws masks

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
        """Return the outputs of the Keras layer with `dropout` and `recurrent_dropout` applied.

        Args:
            sequences: Inputs (B, T, F).
            initial_state: States (B, units), or None for zeros.
            mask: Booleans (B, T), False for steps to skip.
            training: Whether each example has its own masks.
        """
        seed = self.draw_seed(training)
        rows = tf.shape(sequences)[0] if training else 1
        set_dropout_masks(
            self.cell,
            self._draw_masks(self.dropout, rows, sequences.shape[-1], fold_in(seed, 0)),
            self._draw_masks(self.recurrent_dropout, rows, self.units, fold_in(seed, 1)),
        )
        # A cell applies its masks only with training=True.
        return super().call(sequences, initial_state=initial_state, mask=mask, training=True)

    def _draw_masks(self, rate: float, rows: tf.Tensor | int, width: int, seed: tf.Tensor):
        if rate == 0:
            return None
        count = num_dropout_masks(self.cell)
        masks = tf.unstack(draw_mask((count or 1, rows, width), rate, seed, self.compute_dtype))
        return masks if count else masks[0]


@keras.saving.register_keras_serializable("tfp_bayes")
class MCLSTM(_MCRecurrent, keras.layers.LSTM):
    """LSTM whose dropout stays on at inference, so that forward passes are posterior samples.

    Use it in place of `keras.layers.LSTM` with dropout to get the uncertainty of a recurrent
    network's predictions. A mask is drawn once per sequence and is the same at every step, so it
    amounts to a draw of the layer's weights. `MCEmbedding` drops words in the same way.

    Args:
        units: Size of the state.
        dropout: Float in [0, 1), the probability that an input unit is set to zero.
        recurrent_dropout: Float in [0, 1), the probability that a unit of the recurrent state is
            set to zero.
        seed: Integer or None.
        **kwargs: Keyword arguments of `keras.layers.LSTM`.

    Randomness:
        `training=True`: separate masks for each example. `training=False`: one set of masks for
        the whole batch. As in Keras, all gates share one mask of the inputs (Gal's tied weights)
        if `recurrent_dropout` is 0; otherwise each gate has its own masks (untied weights).

    Losses:
        None. `BayesianModel(..., prior_scale=)` sets the prior of Monte Carlo dropout.

    Raises:
        ValueError: If a rate is outside [0, 1), or `stateful` is True.

    Reference:
        Gal and Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent
        Neural Networks", equations 4 and 7, arXiv:1512.05287: x_t z_x and h_{t-1} z_h replace x_t
        and h_{t-1}, with masks z that do not depend on t.

    Example:

    >>> layer = MCLSTM(4, dropout=0.2, recurrent_dropout=0.1, seed=0)
    >>> y = layer(np.ones((2, 5, 3)))  # one set of masks: equal sequences stay equal
    >>> bool(np.all(y[0] == y[1]))
    True
    """


@keras.saving.register_keras_serializable("tfp_bayes")
class MCGRU(_MCRecurrent, keras.layers.GRU):
    """GRU whose dropout stays on at inference, so that forward passes are posterior samples.

    Arguments, randomness and errors are those of `MCLSTM`, with `keras.layers.GRU` in place of
    `keras.layers.LSTM`.

    Example:

    >>> layer = MCGRU(4, dropout=0.2, seed=0)
    >>> layer(np.ones((2, 5, 3)), training=True).shape
    TensorShape([2, 4])
    """


class _RecurrentReparameterization(VariationalLayer):
    """A Keras recurrent layer whose cell computes with randomly drawn weights."""

    beliefs = {"kernel": UNCERTAIN, "recurrent_kernel": UNCERTAIN, "bias": POINT}
    keras_takes_seed = True  # for the training dropout of its cell

    def __init__(self, units: int, *args, seed: int | None = None, **kwargs):
        super().__init__(units, *args, seed=seed, **kwargs)
        refuse_stateful(self)

    def build(
        self, sequences_shape: tuple[int | None, ...], initial_state_shape: tuple | None = None
    ) -> None:
        """Create the parameters of the posteriors and of the priors."""
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
        """Return the outputs of the Keras layer under one draw of its weights.

        Args:
            sequences: Inputs (B, T, F).
            initial_state: States (B, units), or None for zeros.
            mask: Booleans (B, T), False for steps to skip.
            training: Whether to add the KL divergence and to apply the dropout of the Keras layer.
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
    """LSTM whose weights are drawn from a posterior once per call (Bayes by Backprop).

    Use it where a recurrent network should be uncertain far from its training data. All steps of
    a sequence use the same draw, so each pass is a draw of a function.

    Args:
        units: Size of the state.
        kernel_prior: Prior on the kernel. For this and for `kernel_posterior`,
            `recurrent_kernel_prior`, `recurrent_kernel_posterior`, `bias_prior` and
            `bias_posterior`, see `VariationalLayer`.
        seed: Integer or None. An integer makes the sequence of draws reproducible.
        **kwargs: Arguments of `keras.layers.LSTM`. Its `dropout` and `recurrent_dropout` act in
            training only, as in Keras, and are not part of the posterior.

    Randomness:
        One draw of all weights for each call, in training and at inference. In training, too, all
        examples of a batch share the draw. Compared with Flipout, this adds a part to the variance
        of the gradient that larger batches do not reduce.

    Losses:
        In training, KL(q || prior) of both kernels and the bias, once per call.

    Raises:
        ValueError: If `stateful` is True. See also `VariationalLayer`.

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
    """GRU whose weights are drawn from a posterior once per call (Bayes by Backprop).

    Arguments, randomness, losses and errors are those of `LSTMReparameterization`, with
    `keras.layers.GRU` in place of `keras.layers.LSTM`.

    Example:

    >>> layer = GRUReparameterization(4, seed=0)
    >>> layer(np.ones((2, 5, 3)), training=True).shape
    TensorShape([2, 4])
    """
