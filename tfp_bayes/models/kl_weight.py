"""The weight of the prior: 1 / num_train, optionally annealed or tempered."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes.layers import variational_layers
from tfp_bayes.models.dropout_prior import gaussian_penalty


def kl_divergence(model: keras.layers.Layer) -> tf.Tensor:
    """Return KL(q || prior) of all variational layers of a model, for custom training loops.

    The loss per example is then `nll + kl_divergence(model) / num_train`. The divergence is exact
    where there is a closed form, otherwise an unbiased estimate from new draws. Under a
    distribution strategy, divide it by the number of replicas too.

    Args:
        model: Any model or layer.

    Returns:
        Float32 scalar in nats, summed over weights, including those under a `prior_scale`.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), DenseFlipout(3)])
    >>> bool(kl_divergence(model) > 0)
    True
    """
    kl = sum((layer.kl_divergence() for layer in variational_layers(model)), tf.constant(0.0))
    return kl + gaussian_penalty(model)


def set_kl_weight(model: keras.layers.Layer, weight: float) -> None:
    """Set the factor of the KL divergence in the loss of a model, usually 1 / num_train.

    Args:
        model: Any model or layer.
        weight: Positive factor.

    Raises:
        ValueError: If `weight` is not positive.
    """
    check_positive(weight=weight)
    for owner in flatten_layers(model):
        if hasattr(owner, "kl_weight"):
            owner.kl_weight.assign(weight)


class KLWeight(keras.callbacks.Callback):
    """Weight the KL divergence by 1 / num_train, optionally with a schedule over epochs.

    Pass it to `fit` of a plain `keras.Model` with variational layers, which cannot train without
    it. A `BayesianModel` counts num_train and needs this callback only for annealing or a
    temperature.

    Args:
        num_train: Number of training examples. None uses the number that a `BayesianModel`
            counted.
        warmup_epochs: Number of epochs, possibly fractional, over which the weight rises linearly
            to its full value, so that the data are fitted before the prior takes full effect.
        cycle_epochs: Number of epochs after which the rise of `warmup_epochs` starts again
            (cyclical annealing). None is a single rise.
        temperature: Factor T of the weight. Values below 1 give a cold posterior, which is
            narrower than Bayes' rule implies, as deep networks often need. T raises the likelihood
            to the power 1 / T and leaves the prior unchanged. Samplers, in contrast, divide the
            logarithms of both by T.

    Raises:
        ValueError: If an argument is out of range, or when training starts, `num_train` is not
            known or the model is not built.

    Reference:
        Sønderby et al. 2016, "Ladder Variational Autoencoders", section 3.3, arXiv:1602.02282
        (warm-up); Fu et al. 2019, equation 6, arXiv:1903.10145 (cycles); Wenzel et al. 2020,
        "How Good is the Bayes Posterior in Deep Neural Networks Really?", equation 1,
        arXiv:2002.02405 (temperature).

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), DenseFlipout(3, activation="softmax")])
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> x, y = np.ones((8, 4)), np.zeros(8)
    >>> history = model.fit(x, y, callbacks=[KLWeight(num_train=len(x))], verbose=0)
    >>> float(model.layers[0].kl_weight)
    0.125
    """

    def __init__(
        self,
        num_train: int | None = None,
        *,
        warmup_epochs: float = 0.0,
        cycle_epochs: float | None = None,
        temperature: float = 1.0,
    ):
        super().__init__()
        check_positive(temperature=temperature)
        if num_train is not None:
            check_integers(1, num_train=num_train)
        if cycle_epochs is None:
            is_valid = warmup_epochs >= 0
        else:  # without a rise, cycles would have no effect
            is_valid = warmup_epochs > 0 and cycle_epochs >= max(1, warmup_epochs)
        if not is_valid:
            raise ValueError(
                "Expected warmup_epochs >= 0; with `cycle_epochs`, warmup_epochs > 0 and "
                "cycle_epochs >= max(1, warmup_epochs). Received: "
                f"warmup_epochs={warmup_epochs}, cycle_epochs={cycle_epochs}. "
                "Hint: cycle_epochs=2 * warmup_epochs is usual."
            )
        self.num_train = num_train
        self.warmup_epochs = warmup_epochs
        self.cycle_epochs = cycle_epochs
        self.temperature = temperature
        self._epoch = 0

    def weight(self, epochs: float, num_train: int) -> float:
        """Return the weight after `epochs` epochs of training, possibly fractional."""
        if self.cycle_epochs is not None:
            # The end of a cycle belongs to that cycle, so the weight reaches its full value.
            epochs = epochs % self.cycle_epochs or self.cycle_epochs
        rise = min(epochs / self.warmup_epochs, 1) if self.warmup_epochs else 1
        return self.temperature * rise / num_train

    def on_train_begin(self, logs=None) -> None:
        """Restart the schedule, with the number of training examples of this `fit`."""
        if not self.model.built:
            raise ValueError(
                "Expected a built model, whose layers have a prior to weight. Received: "
                f"{self.model.name!r}, which has no weights yet. Hint: start with keras.Input, or "
                "call the model once before `fit`, model(x[:1])."
            )
        num_train = self.num_train or getattr(self.model, "num_train", None)
        if not num_train:
            raise ValueError(
                "Expected `num_train` to weight the KL divergence. Received: num_train=None and a "
                "model that did not count its training examples. "
                "Hint: KLWeight(num_train=len(x_train))."
            )
        self._num_train = num_train
        self._epoch = 0
        self._set(epochs=0)

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        """Remember the number of the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        """Set the weight for this step, unless it is constant."""
        if self.warmup_epochs:
            # If the number of steps per epoch is unknown, the weight rises once per epoch.
            steps = self.params.get("steps")
            self._set(self._epoch + ((batch + 1) / steps if steps else 1))

    def _set(self, epochs: float) -> None:
        weight = self.weight(epochs, self._num_train)
        set_kl_weight(self.model, max(weight, 1e-12))  # it is 0 before the first step of a warm-up


def stated_num_train(callbacks) -> int | None:
    """Return the num_train of the first `KLWeight` among the callbacks, or None."""
    stated = [each.num_train for each in _flat(callbacks) if isinstance(each, KLWeight)]
    return stated[0] if stated else None


def with_kl_weight(callbacks, model: keras.Model) -> keras.callbacks.CallbackList | list:
    """Add a `KLWeight` to the callbacks of `fit`, unless there is one.

    Args:
        callbacks: As in `fit`.
        model: The model, which is set on a `CallbackList`.
    """
    known = [each for each in _flat(callbacks) if isinstance(each, KLWeight)]
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        return _flat(callbacks) if known else [KLWeight(), *_flat(callbacks)]
    if not known:
        callbacks.callbacks.insert(0, KLWeight())
    callbacks.set_model(model)
    callbacks.set_params(callbacks.params)
    return callbacks


def _flat(callbacks) -> list:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks.callbacks
    return keras.tree.flatten(callbacks) if callbacks else []
