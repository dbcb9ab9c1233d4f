"""The meaning of a model's outputs, and the noise of targets if the outputs do not include it."""

from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from tfp_bayes.inference.labelled_run import flat_targets, labelled, run_model, seen_positions
from tfp_bayes.inference.network_curvature import Curvature
from tfp_bayes.inference.observations import OBSERVATIONS, NormalLocations, Observations
from tfp_bayes.prediction.inputs import signature


def resolve_observations(
    model: keras.Model, x: Any, y: Any, likelihood: Any, noise_scale: Any
) -> list[Observations]:
    """Return the meaning of each output, in the order of `keras.tree.flatten`.

    Under likelihood "normal", an output with as many numbers as its targets holds locations only.
    The scale is then `noise_scale`, or the root mean square of the residuals.

    Args:
        model: Built Keras model.
        x: Arrays or a dataset of (x, y).
        y: Targets, if `x` holds arrays.
        likelihood: One name for all outputs, or a structure of names like that of the outputs.
        noise_scale: A number or a sequence (D,). None estimates it from the residuals.

    Raises:
        ValueError: If the numbers of names and outputs differ, no output needs the given noise, or
            residuals are zero or not finite.
    """
    inputs, targets = next(labelled(x, y))
    one_row = keras.tree.map_structure(lambda a: a[:1], inputs)
    outputs = run_model(model, one_row)
    flat = keras.tree.flatten(outputs)
    names = keras.tree.flatten(likelihood)
    names = names * len(flat) if len(names) == 1 else names
    if len(names) != len(flat):
        raise ValueError(
            f"Expected one `likelihood`, or one for each of {len(flat)} outputs. "
            f"Received: likelihood={likelihood!r}. Hint: a single name applies to all outputs."
        )
    result = [OBSERVATIONS[name]() for name in names]
    given = flat_targets(model, outputs, targets) if "normal" in names else []
    locations = [i for i, y_i in enumerate(given) if _are_locations(names[i], flat[i], y_i)]
    if not locations and noise_scale is not None:
        raise ValueError(
            "Expected `noise_scale` only under likelihood='normal', for outputs with as many "
            f"numbers as targets. Received: noise_scale={noise_scale!r}, "
            f"likelihood={likelihood!r} and outputs of shapes "
            f"{[tuple(p.shape) for p in flat]}. Hint: leave it out."
        )
    sums = _residuals(model, x, y, locations) if locations and noise_scale is None else {}
    for i in locations:
        size = flat[i].shape[-1]
        if noise_scale is None:
            scale = np.sqrt(sums[i].squares / sums[i].num_positions)
            result[i] = NormalLocations(scale, sums[i].num_positions * size)
        else:
            result[i] = NormalLocations(_repeated(noise_scale, size))
    return result


def _repeated(noise_scale: Any, size: int) -> np.ndarray:
    given = np.asarray(noise_scale, "float64")
    if given.ndim and given.shape != (size,):
        raise ValueError(
            f"Expected one number, or one for each of {size} targets, for `noise_scale`. "
            f"Received: noise_scale={noise_scale!r}. Hint: None estimates it from the residuals."
        )
    return np.full(size, given)


def _are_locations(name: str, output: tf.Tensor, y: Any) -> bool:
    if name != "normal" or y is None:
        return False
    shape = np.shape(y)
    num_targets = 1 if len(shape) == output.shape.rank - 1 else shape[-1]
    return output.shape[-1] == num_targets


class _Residuals(NamedTuple):
    """Sums over all positions of an output.

    Args:
        squares: Sums of squared residuals (D,).
        num_positions: Number of positions.
    """

    squares: np.ndarray
    num_positions: int


def _residuals(model: keras.Model, x: Any, y: Any, indices: list[int]) -> dict[int, _Residuals]:
    """Return the sums of squared residuals for the outputs with the given indices."""
    run = None
    totals: dict[int, _Residuals] = {}
    for inputs, targets in labelled(x, y):
        if run is None:
            run = tf.function(
                lambda each: _outputs_and_seen(model, each),
                input_signature=[signature(model, inputs)],
                autograph=False,
            )
        outputs, seen = run(inputs)
        flat, given = keras.tree.flatten(outputs), flat_targets(model, outputs, targets)
        for i in indices:
            loc = flat[i].numpy().astype("float64")
            labels = NormalLocations(np.ones(loc.shape[-1])).check(loc, given[i])
            mask = np.ones(loc.shape[:-1], bool) if seen[i] is None else seen[i].numpy()
            squares = np.square(labels - loc)[mask].sum(axis=0)
            before = totals.get(i, _Residuals(np.zeros(()), 0))
            totals[i] = _Residuals(before.squares + squares, before.num_positions + int(mask.sum()))
    for total in totals.values():
        if not (np.isfinite(total.squares).all() and (total.squares > 0).all()):
            raise ValueError(
                "Expected finite, nonzero residuals, to estimate the noise of the targets. "
                f"Received: sums of squares {total.squares.tolist()}. "
                "Hint: pass noise_scale."
            )
    return totals


def _outputs_and_seen(model: keras.Model, inputs):
    outputs = run_model(model, inputs)
    return outputs, [seen_positions(p) for p in keras.tree.flatten(outputs)]


def with_noise_of_evidence(
    found: Curvature, observations: list[Observations], prior_scale: float | None
) -> tuple[Curvature, list[Observations]]:
    """Adapt the curvature and the observations to the noise that maximizes the evidence.

    The noise is the root mean square of the residuals times a factor that all targets share.

    Args:
        found: Curvature at the noise estimated from the residuals.
        observations: Observations of the model's only output.
        prior_scale: Standard deviation of the prior. None maximizes over it too.

    Returns:
        The curvature and the observations at the noise that was found.

    Raises:
        ValueError: If there are several outputs, or the evidence has no maximum.

    Reference:
        MacKay 1992, "A Practical Bayesian Framework for Backpropagation Networks", section 2.
    """
    only = observations[0]
    if len(observations) > 1 or not isinstance(only, NormalLocations) or only.num_numbers is None:
        raise ValueError(
            "Expected a single output, with likelihood='normal' and without scales, for "
            "noise_scale='evidence'. Received: outputs with likelihoods "
            f"{[each.likelihood for each in observations]}. Hint: leave noise_scale out."
        )
    log_noise = _log_noise_of_evidence(found, only.num_numbers, prior_scale)
    factor = float(np.exp(log_noise))
    blocks = [each._replace(eigenvalues=each.eigenvalues / factor**2) for each in found.blocks]
    change = -only.num_numbers * (log_noise + (factor**-2 - 1) / 2)
    scaled = found._replace(blocks=blocks, log_likelihood=found.log_likelihood + change)
    return scaled, [NormalLocations(factor * only.scale)]


def _log_noise_of_evidence(found: Curvature, count: int, prior_scale: float | None) -> float:
    """Return the log of the factor that multiplies the residuals' root mean square."""
    eigenvalues = np.concatenate([block.eigenvalues.ravel() for block in found.blocks])
    eigenvalues = eigenvalues[eigenvalues > 0]
    square_norm = sum(np.square(layer.read()).sum() for layer in found.layers)

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log evidence without constants, and its gradient."""
        log_noise, log_scale = point if prior_scale is None else (*point, np.log(prior_scale))
        ratios = eigenvalues * np.exp(2 * (log_scale - log_noise))
        shares = (ratios / (1 + ratios)).sum()
        data, prior = count * np.exp(-2 * log_noise), square_norm * np.exp(-2 * log_scale)
        value = count * log_noise + (data + prior + np.log1p(ratios).sum()) / 2
        return value, np.array([count - data - shares, shares - prior][: len(point)])

    start, bounds = [0.0], [(-_FAR, _FAR)]
    if prior_scale is None:
        scales = np.linspace(-_FAR, _FAR, 41)
        best = scales[np.argmin([objective(np.array([0.0, each]))[0] for each in scales])]
        start, bounds = [0.0, best], bounds * 2
    found_at = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15}
    ).x
    if np.abs(found_at).max() > 0.99 * _FAR:
        raise ValueError(
            "Expected training data that determine the noise of the targets for "
            "noise_scale='evidence'. Received: an evidence that is largest at the end of the "
            f"search range, at {np.exp(found_at[0]):.2g} times the residuals. "
            "Hint: pass a number, or leave noise_scale out."
        )
    return float(found_at[0])


_FAR = np.log(1e4)  # largest absolute log scale in the search
