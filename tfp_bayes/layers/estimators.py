"""Training estimators for layers with random weights, unbiased for any affine map.

Each estimator is a method of an `AffineLayer`. It computes outputs from inputs and one draw of
the weights. For each example the mean and the variance of the outputs are those under the
posterior. Estimators differ in how the examples of a batch share noise, and therefore in the
variance of the gradient.
"""

import tensorflow as tf

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.layers.random_weight import Draw


def reparameterization(
    layer, inputs: tf.Tensor, kernel: Draw, bias: Draw | None, seed: tf.Tensor
) -> tf.Tensor:
    """Return L(x, w), with one draw for the batch (Blundell et al. 2015, section 3.2)."""
    return layer.affine_map(inputs, kernel.value, bias and bias.value)


def local_reparameterization(
    layer, inputs: tf.Tensor, kernel: Draw, bias: Draw | None, seed: tf.Tensor
) -> tf.Tensor:
    """Return L(x, m) + sqrt(L(x^2, s^2)) e (Kingma et al. 2015, equation 6).

    The noise e is drawn independently for every output element. Each element has the right
    distribution, but the correlation between pixels of a convolution, which share one kernel,
    is lost.
    """
    mean = layer.affine_map(inputs, kernel.distribution.loc, bias and bias.distribution.loc)
    # In full precision, because squares of scales underflow in float16.
    squares = tf.square(tf.cast(inputs, kernel.value.dtype))
    variance = layer.affine_map(
        squares,
        kernel.distribution.variance(),
        None if bias is None or bias.is_point else bias.distribution.variance(),
    )
    drawn = noise.normal(tf.shape(variance), seed, variance.dtype)
    return mean + tf.cast(_scaled_noise(variance, drawn), mean.dtype)


@tf.custom_gradient
def _scaled_noise(variance: tf.Tensor, noise: tf.Tensor):
    """Return sqrt(variance) noise, with a gradient of 0 where the variance is 0.

    The gradient of a square root is infinite at 0, and inputs that are all zero do occur.
    """
    scaled = tf.sqrt(tf.nn.relu(variance)) * noise

    def gradient(upstream: tf.Tensor):
        return tf.math.divide_no_nan(upstream * scaled, 2 * variance), None

    return scaled, gradient


def flipout(
    layer, inputs: tf.Tensor, kernel: Draw, bias: Draw | None, seed: tf.Tensor
) -> tf.Tensor:
    """Return L(x, m) + r_out L(r_in x, w - m) (Wen et al. 2018, equation 4).

    The random signs r differ between examples and channels and are constant over space. So the
    pixels of one example keep the correlation that comes from their shared kernel.
    """
    mean = layer.affine_map(inputs, kernel.distribution.loc, bias and bias.distribution.loc)
    turned = layer.affine_map(
        inputs * _signs(inputs, layer.input_sign_axes, fold_in(seed, 0)),
        kernel.value - kernel.distribution.loc,
        None if bias is None or bias.is_point else bias.value - bias.distribution.loc,
    )
    return mean + turned * _signs(turned, layer.output_sign_axes, fold_in(seed, 1))


def _signs(like: tf.Tensor, axes: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Draw signs for each example and each index along `axes`, constant along other axes."""
    shape = tf.unstack(tf.shape(like))
    sizes = [shape[0]] + [1] * (len(shape) - 1)
    for axis in axes:
        sizes[axis] = shape[axis]
    return tf.cast(2 * noise.coins(sizes, seed) - 1, like.dtype)
