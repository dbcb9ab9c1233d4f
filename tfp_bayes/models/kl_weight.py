"""The weight of the prior: 1 / num_train, annealed or cooled if asked."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes.layers import variational_layers
from tfp_bayes.models.dropout_prior import gaussian_penalty


def kl_divergence(model: keras.layers.Layer) -> tf.Tensor:
    """Returns KL(q || prior) of all variational layers of a model, for training loops of one's own.

    A loss per example is `nll + kl_divergence(model) / num_train`. Exact where there is a closed
    form, otherwise an unbiased estimate from new draws. Under a distribution strategy, divide it
    by the number of replicas too.

    Args:
        model: Any model or layer.

    Returns:
        float32 scalar, in nats, summed over weights, those under a `prior_scale` included.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), DenseFlipout(3)])
    >>> bool(kl_divergence(model) > 0)
    True
    """
    kl = sum((layer.kl_divergence() for layer in variational_layers(model)), tf.constant(0.0))
    return kl + gaussian_penalty(model)


def set_kl_weight(model: keras.layers.Layer, weight: float) -> None:
    """Sets what the KL divergence of a model is multiplied by in its loss, 1 / num_train as a rule.

    Args:
        model: Any model or layer.
        weight: Positive number.

    Raises:
        ValueError: If `weight` is not positive.
    """
    check_positive(weight=weight)
    for owner in flatten_layers(model):
        if hasattr(owner, "kl_weight"):
            owner.kl_weight.assign(weight)


class KLWeight(keras.callbacks.Callback):
    """Weights the KL divergence by 1 / num_train, over epochs as asked.

    Pass it to `fit` of a plain `keras.Model` that holds variational layers, which cannot train
    without; a `BayesianModel` needs it for annealing or cooling only, and tells it num_train.

    Args:
        num_train: Number of training examples. None takes what a `BayesianModel` has counted.
        warmup_epochs: Epochs, or a fraction of one, over which the weight rises linearly to its
            full value: the fit comes first, the prior later.
        cycle_epochs: If given, the rise starts anew every so many epochs (cyclical annealing).
        temperature: T, by which the weight is multiplied. Below 1 the posterior is cold: sharper
            than Bayes' rule says, as deep networks often need. It raises the likelihood to the
            power 1 / T and leaves the prior, where samplers divide the logarithms of both by T.

    Raises:
        ValueError: If an argument is out of range, or `num_train` is not known when training
            starts.

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
            check_positive(num_train=num_train)
        if warmup_epochs < 0 or (cycle_epochs is not None and cycle_epochs < max(warmup_epochs, 1)):
            raise ValueError(
                "Expected warmup_epochs >= 0, and `cycle_epochs` of at least 1 and "
                f"`warmup_epochs`. Received: warmup_epochs={warmup_epochs}, "
                f"cycle_epochs={cycle_epochs}. Hint: cycle_epochs=2 * warmup_epochs is usual."
            )
        self.num_train = num_train
        self.warmup_epochs = warmup_epochs
        self.cycle_epochs = cycle_epochs
        self.temperature = temperature
        self._epoch = 0

    def weight(self, epochs: float, num_train: int) -> float:
        """Returns the weight after `epochs` of training, which may be a fraction."""
        if self.cycle_epochs is not None:
            # The end of a cycle belongs to it: the weight reaches its full value there.
            epochs = epochs % self.cycle_epochs or self.cycle_epochs
        rise = min(epochs / self.warmup_epochs, 1) if self.warmup_epochs else 1
        return self.temperature * rise / num_train

    def on_train_begin(self, logs=None) -> None:
        """Starts anew, with the number of examples of this `fit`."""
        num_train = self.num_train or getattr(self.model, "num_train", None)
        if not num_train:
            raise ValueError(
                "Expected `num_train` to weight the KL divergence. Received: num_train=None and a "
                "model that has not counted. Hint: KLWeight(num_train=len(x_train))."
            )
        self._num_train = num_train
        self._epoch = 0
        self._set(epochs=0)

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        """Sets the weight of this step; constant ones are set once."""
        if self.warmup_epochs:
            # Where the length of an epoch is not known, the weight rises epoch by epoch.
            steps = self.params.get("steps")
            self._set(self._epoch + ((batch + 1) / steps if steps else 1))

    def _set(self, epochs: float) -> None:
        weight = self.weight(epochs, self._num_train)
        set_kl_weight(self.model, max(weight, 1e-12))  # zero is before a warm-up's first step


def stated_num_train(callbacks) -> int | None:
    """Returns the num_train of a `KLWeight` among callbacks, None without."""
    stated = [each.num_train for each in _flat(callbacks) if isinstance(each, KLWeight)]
    return stated[0] if stated else None


def with_kl_weight(callbacks, model: keras.Model) -> keras.callbacks.CallbackList | list:
    """Adds the weight of the prior to the callbacks of `fit`, unless the user has.

    Args:
        callbacks: As in `fit`.
        model: The model, which a `CallbackList` may not have been told.
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
