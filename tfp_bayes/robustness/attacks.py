"""Attacks on the posterior predictive mean: FGSM and PGD within a box around each image."""

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

# Below this a probability counts as 0, and its logarithm as flat.
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
    """Fast gradient sign method: one step of `eps` pixels that raises the loss to first order.

    Use it as the cheap attack; `pgd` is the one that a claim of robustness needs. The loss is the
    cross-entropy of the posterior predictive mean over `num_samples` draws, the ones that
    `predict_uncertainty(..., num_samples, seed)` takes. Attacking one draw, or fresh draws at each
    step, would find gradients hidden by noise and report a robustness that is not there. To see
    whether an attack carries over to draws that it has not seen, predict with another seed.

    Args:
        model: A `BayesianModel` or `Predictor` of one array of images and one output, a softmax or
            sigmoids; `Predictor(model)` with `num_samples=1` for a deterministic one.
        x: (N, H, W, C) integers or floats in [0, max_pixel], as the model takes them.
        y: (N,) class numbers, or zeros and ones: what the attack leads away from.
        eps: Largest change of a value, in units of `x`: 8 for uint8 images, 8 / 255 in [0, 1].
        max_pixel: Largest value that a pixel can have: 255, or 1 for images scaled to [0, 1].
        num_samples: S; None takes every draw of a finite posterior once, and 100 otherwise.
        seed: Integer >= 0.
        targeted: Whether `y` is what the attack leads to instead.
        batch_size: Images at a time; changes memory and speed.

    Returns:
        Images of the same shape and dtype, within `eps` of `x` and in [0, max_pixel]. Integers
        stay integers, within the whole part of `eps`.

    Raises:
        ValueError: If an argument is none of these, images in [0, 1] come without `max_pixel=1`,
            or the model's outputs cannot be differentiated.

    Warns:
        UserWarning: If the gradient of some images is exactly 0: their probabilities are so
            extreme that float32 cannot tell a direction. Such images come back as they are, which
            is no sign of robustness.

    Reference:
        Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples", section 4,
        arXiv:1412.6572; of Bayesian networks, Carbone et al. 2020, "Robustness of Bayesian Neural
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
    """Projected gradient descent from a random start in the box of `eps` around each image.

    Use it to see how far a model can be led astray; it costs `steps` + 1 gradients. Of all images
    on the way it returns the one of the largest loss (smallest, if targeted). What it does not
    find may still exist: a bound from below on the harm, not a certificate.

    Args:
        model: See `fgsm`.
        x: See `fgsm`.
        y: See `fgsm`.
        eps: See `fgsm`.
        max_pixel: See `fgsm`.
        num_samples: See `fgsm`.
        seed: Also that of the random start, which for image i follows from `seed` and i.
        targeted: See `fgsm`.
        batch_size: See `fgsm`.
        steps: Number of steps.
        step_size: Change of each value in a step, in units of `x`; None is `eps` / 4.

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
    """What attacks share: checked arguments, gradients, the box, and the way back to the dtype."""

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
        """Returns the smallest and the largest value that each pixel may take."""
        return (
            np.maximum(images - self._eps, 0),
            np.minimum(images + self._eps, self._max_pixel),
        )

    def gradient(self, images: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Returns the losses of images, for the labels of some rows, and their gradients."""
        images = images.astype(keras.config.floatx())
        targets = self._targets[rows]
        return self._gradient(images, targets, self._num_samples, self._theta_seed)

    def random_start(self, shape: tuple[int, ...], first: int) -> np.ndarray:
        """Returns uniform changes of images, of which the first has a number in `x`."""
        rows = range(first, first + shape[0])
        generators = (np.random.default_rng([self._seed, row]) for row in rows)
        return np.stack([g.uniform(-self._eps, self._eps, shape[1:]) for g in generators])

    def run(self, search: Callable, batch_size: int) -> np.ndarray:
        """Returns what a search finds, in the box and of the dtype of the images.

        Args:
            search: From images in float64 and the rows of `x` that they are, to better images and
                the gradients that it began with.
            batch_size: Images at a time.
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
                f"The gradient of {num_flat} of {len(self._x)} images is exactly 0, so that the "
                "attack had no direction at its first step. Their probabilities are too extreme "
                "for float32, or no pixel reaches the output; they are not robust for that.",
                stacklevel=3,
            )
        return result

    def _checked_targets(self, y: np.ndarray) -> np.ndarray:
        """Returns labels like the mean: one-hot, or zeros and ones."""
        first = self._x[:1].astype(keras.config.floatx())
        # Also checks the weights, and that outputs are probabilities.
        prediction = self._predictor.predict_uncertainty(first, self._num_samples, self._theta_seed)
        if not hasattr(prediction, "mean"):
            raise ValueError(
                "Expected a model of one output. Received: "
                f"{len(keras.tree.flatten(prediction))} outputs. "
                "Hint: keras.Model(model.inputs, model.outputs[0]), in a Predictor."
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
            f"a {type(model).__name__}. Hint: Predictor(model), with num_samples=1 for a "
            "deterministic one."
        )
    if not isinstance(predictor.likelihood, str) or predictor.likelihood not in _LOSSES:
        raise ValueError(
            f"Expected one of {', '.join(_LOSSES)} as the likelihood of the model to attack. "
            f"Received: likelihood={predictor.likelihood!r}. Hint: attacks are on classifiers of "
            "one output."
        )
    if getattr(predictor.posterior, "combine", "mean") == "vote":
        raise ValueError(
            "Expected a posterior whose samples are averaged. Received: one with combine='vote', "
            "whose votes have no gradient. Hint: attack it with combine='mean', and predict with "
            "votes."
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
