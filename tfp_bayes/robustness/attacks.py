"""Adversarial attacks on the posterior predictive mean: FGSM and PGD in a box around each image."""

import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.seeds import as_seed
from tfp_bayes.prediction import DEFAULT_BATCH_SIZE, Predictor
from tfp_bayes.prediction.gradient import MeanGradient
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.robustness.images import check_images

# Smaller probabilities are clipped to this value, where the loss has no gradient.
_TINY = 1e-30


def fgsm(
    model,
    x: np.ndarray,
    y: np.ndarray,
    eps: float,
    max_pixel: float = 255,
    num_samples: int | None = None,
    seed: int = 0,
    targeted: bool = False,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> np.ndarray:
    """Fast gradient sign method: one step of size `eps` that increases the loss to first order.

    Use it as the cheap attack; a claim of robustness needs `pgd`. The loss is the cross-entropy of
    the posterior predictive mean over the same `num_samples` draws that
    `predict_uncertainty(..., num_samples, seed)` uses. Attacking a single draw, or new draws at
    each step, would give noisy gradients and overestimate the robustness. To see whether an attack
    transfers to other draws, predict with another seed.

    Args:
        model: A `BayesianModel` or `Predictor` with one array of images as input and one output,
            a softmax or sigmoids. For a deterministic model use `Predictor(model)` and
            `num_samples=1`.
        x: (N, H, W, C) integers or floats in [0, max_pixel], as the model takes them.
        y: (N,) class numbers, or zeros and ones. The attack leads away from these labels.
        eps: Largest change of a value, in units of `x`: 8 for uint8 images, 8 / 255 in [0, 1].
        max_pixel: Largest possible pixel value: 255, or 1 for images scaled to [0, 1].
        num_samples: Number of posterior samples S. None uses every draw of a finite posterior once,
            and 100 samples otherwise.
        seed: Integer seed >= 0 of the posterior samples.
        targeted: Whether the attack leads toward `y` instead.
        batch_size: Images per batch; affects memory and speed only.

    Returns:
        Images of the same shape and dtype, within `eps` of `x` and in [0, max_pixel]. Integers
        stay integers, within `eps` rounded down.

    Raises:
        ValueError: If an argument is invalid, images in [0, 1] are given without `max_pixel=1`, or
            the outputs of the model cannot be differentiated.

    Warns:
        UserWarning: If the gradient of some images is exactly 0, because their probabilities are
            too extreme for float32. Such images are returned unchanged, which is no sign of
            robustness.

    Reference:
        Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples", section 4,
        arXiv:1412.6572; for Bayesian networks, Carbone et al. 2020, "Robustness of Bayesian Neural
        Networks to Gradient-Based Attacks", equation 3, arXiv:2002.04359.

    Example:

    >>> model = BayesianMLP((8, 8, 1), 3, hidden_units=(4,), inference="mc_dropout", seed=0)
    >>> x = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype="uint8")
    >>> attacked = tfp_bayes.robustness.fgsm(model, x, [0, 1, 2, 0, 1], eps=8, num_samples=10)
    >>> attacked.dtype, int(np.abs(attacked.astype(int) - x).max())
    (dtype('uint8'), 8)
    """
    attack = _Attack(model, x, y, eps, max_pixel, num_samples, seed, targeted)

    def step(images, rows):
        _, slopes = attack.gradient(images, rows)
        return images + eps * np.sign(slopes), slopes

    return attack.run(step, batch_size)


def pgd(
    model,
    x: np.ndarray,
    y: np.ndarray,
    eps: float,
    max_pixel: float = 255,
    num_samples: int | None = None,
    seed: int = 0,
    targeted: bool = False,
    batch_size: int = DEFAULT_BATCH_SIZE,
    steps: int = 20,
    step_size: float | None = None,
) -> np.ndarray:
    """Projected gradient descent from a random start in a box of size `eps` around each image.

    Use it to see how much an attack can mislead a model. It costs `steps` + 1 gradients, and
    returns the image of the largest loss along the way (the smallest, if targeted). It gives a
    lower bound on the possible harm, not a certificate: an attack that it misses may exist.

    Args:
        model: See `fgsm`.
        x: See `fgsm`.
        y: See `fgsm`.
        eps: See `fgsm`.
        max_pixel: See `fgsm`.
        num_samples: See `fgsm`.
        seed: See `fgsm`. The random start of image i depends on `seed` and i only.
        targeted: See `fgsm`.
        batch_size: See `fgsm`.
        steps: Number of steps.
        step_size: Change of each value in a step, in units of `x`. None means `eps` / 4.

    Returns:
        See `fgsm`.

    Raises:
        ValueError: See `fgsm`.

    Warns:
        UserWarning: See `fgsm`.

    Reference:
        Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
        section 2.1, arXiv:1706.06083.

    Example:

    >>> model = BayesianMLP((8, 8, 1), 3, hidden_units=(4,), inference="flipout", seed=0)
    >>> x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype("float32")
    >>> attacked = tfp_bayes.robustness.pgd(
    ...     model, x, [0, 1, 2, 0, 1], eps=0.1, max_pixel=1, num_samples=10, steps=3)
    >>> attacked.shape, bool(np.abs(attacked - x).max() < 0.1001)
    ((5, 8, 8, 1), True)
    """
    check_integers(1, steps=steps)
    check_positive(eps=eps)
    size = eps / 4 if step_size is None else step_size
    check_positive(step_size=size)
    attack = _Attack(model, x, y, eps, max_pixel, num_samples, seed, targeted)

    def climb(images, rows):
        box = attack.box(images)
        best = moved = np.clip(images + attack.random_start(images.shape, rows.start), *box)
        largest, slopes = attack.gradient(moved, rows)
        at_start = slopes
        for _ in range(steps):
            moved = np.clip(moved + size * np.sign(slopes), *box)
            losses, slopes = attack.gradient(moved, rows)
            better = losses > largest
            best = np.where(better[:, None, None, None], moved, best)
            largest = np.where(better, losses, largest)
        return best, at_start

    return attack.run(climb, batch_size)


class _Attack:
    """Shared parts of attacks: checked arguments, gradients, the box, and conversion of dtypes."""

    def __init__(self, model, x, y, eps, max_pixel, num_samples, seed, targeted):
        self._predictor = _predictor_of(model)
        self._x = check_images(x, max_pixel)
        check_positive(eps=eps)
        check_integers(0, seed=seed)
        self._is_integer = self._x.dtype.kind in "iu"
        if self._is_integer and eps < 1:
            raise ValueError(
                f"Expected at least 1 for `eps` of integer images. Received: eps={eps!r}, "
                f"x of dtype {self._x.dtype}. Hint: eps is in units of pixels; 8, not 8 / 255."
            )
        self._eps = float(np.floor(eps)) if self._is_integer else float(eps)
        self._max_pixel = max_pixel
        self._num_samples = self._predictor.resolve_num_samples(num_samples)
        self._seed, self._theta_seed = seed, as_seed(seed)
        self._targets = self._checked_targets(np.asarray(y)) if len(self._x) else np.empty(0)
        sign = -1.0 if targeted else 1.0
        loss = _LOSSES[self._predictor.likelihood]
        self._gradient = MeanGradient(self._predictor, lambda p, t: sign * loss(p, t))

    def box(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the smallest and the largest allowed value of each pixel."""
        return (
            np.maximum(images - self._eps, 0),
            np.minimum(images + self._eps, self._max_pixel),
        )

    def gradient(self, images: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Returns losses and gradients of images whose labels are those of the given rows."""
        images = images.astype(keras.config.floatx())
        targets = self._targets[rows]
        return self._gradient(images, targets, self._num_samples, self._theta_seed)

    def random_start(self, shape: tuple[int, ...], first: int) -> np.ndarray:
        """Returns uniform random changes of images; `first` is the row of the first one in `x`."""
        rows = range(first, first + shape[0])
        generators = (np.random.default_rng([self._seed, row]) for row in rows)
        return np.stack([g.uniform(-self._eps, self._eps, shape[1:]) for g in generators])

    def run(self, search: Callable, batch_size: int) -> np.ndarray:
        """Returns the images that a search finds, clipped to the box and in the dtype of `x`.

        Args:
            search: Function of float64 images and their rows in `x`, which returns better images
                and the gradients at the start.
            batch_size: Images per batch.
        """
        check_integers(1, batch_size=batch_size)
        result, num_flat = self._x.copy(), 0
        for start in range(0, len(self._x), batch_size):
            rows = slice(start, start + batch_size)
            images = self._x[rows].astype("float64")
            found, slopes = search(images, rows)
            found = np.rint(found) if self._is_integer else found
            result[rows] = np.clip(found, *self.box(images)).astype(self._x.dtype)
            num_flat += int((slopes == 0).all((1, 2, 3)).sum())
        if num_flat:
            warnings.warn(
                f"The gradient of {num_flat} of {len(self._x)} images is exactly 0, so the "
                "attack had no direction at its first step. Either their probabilities are too "
                "extreme for float32, or no pixel affects the output. This is not robustness.",
                stacklevel=3,
            )
        return result

    def _checked_targets(self, y: np.ndarray) -> np.ndarray:
        """Returns labels in the form of the predictive mean: one-hot, or zeros and ones."""
        first = self._x[:1].astype(keras.config.floatx())
        # Also checks the weights, and that outputs are probabilities.
        prediction = self._predictor.predict_uncertainty(first, self._num_samples, self._theta_seed)
        if not hasattr(prediction, "mean"):
            raise ValueError(
                "Expected a model with one output. Received: "
                f"{len(keras.tree.flatten(prediction))} outputs. "
                "Hint: use a Predictor of keras.Model(model.inputs, model.outputs[0])."
            )
        if y.ndim == 2 and y.shape[1] == 1 and prediction.mean.ndim == 2:
            y = y[:, 0]
        targets = get_likelihood(prediction.likelihood).targets(prediction.mean, y)
        return targets.as_outputs(targets.check(y, len(self._x))).astype(keras.config.floatx())


def _predictor_of(model) -> Predictor:
    predictor = getattr(model, "predictor", model)
    if not isinstance(predictor, Predictor):
        raise ValueError(
            "Expected a BayesianModel or a Predictor for `model`. Received: "
            f"a {type(model).__name__}. Hint: use Predictor(model), with num_samples=1 for a "
            "deterministic model."
        )
    if not isinstance(predictor.likelihood, str) or predictor.likelihood not in _LOSSES:
        raise ValueError(
            f"Expected one of {', '.join(_LOSSES)} as the likelihood of the model to attack. "
            f"Received: likelihood={predictor.likelihood!r}. Hint: only classifiers with one "
            "output can be attacked."
        )
    if getattr(predictor.posterior, "combine", "mean") == "vote":
        raise ValueError(
            "Expected a posterior whose samples are averaged. Received: one with combine='vote', "
            "whose votes have no gradient. Hint: attack it with combine='mean', and predict with "
            "combine='vote'."
        )
    return predictor


def _categorical(mean: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns -log p(y), summed over the positions of an example."""
    losses = -targets * tf.math.log(tf.maximum(mean, _TINY))
    return tf.reduce_sum(losses, list(range(1, mean.shape.rank)))


def _bernoulli(mean: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns -log p(y), summed over outputs and positions."""
    return _categorical(mean, targets) + _categorical(1 - mean, 1 - targets)


_LOSSES = {"categorical": _categorical, "bernoulli": _bernoulli}
