"""How a layer with random weights trains: three unbiased estimators, for any affine map.

Each is a method of a `VariationalLayer`: from inputs and one draw of the weights to outputs whose
mean and variance, for each example, are those of the outputs under the posterior. They differ in
how examples of a batch share noise, so in the variance of the gradient.
"""

import tensorflow as tf

from tfp_bayes.seeds import fold_in


def reparameterization(
    layer, inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, seed: tf.Tensor
) -> tf.Tensor:
    """L(x, w): one draw for the batch (Blundell et al. 2015, section 3.2)."""
    return layer.affine_map(inputs, kernel, bias)


def local_reparameterization(
    layer, inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, seed: tf.Tensor
) -> tf.Tensor:
    """L(x, m) + sqrt(L(x^2, s^2)) e: noise on the outputs (Kingma et al. 2015, equation 6).

    e is drawn for every output element: right for each of them, while the correlation over the
    space of a convolution, whose pixels share one kernel, is lost.
    """
    q_kernel, q_bias = layer.random_kernel, layer.random_bias
    mean = layer.affine_map(inputs, q_kernel.mean(), q_bias and q_bias.mean())
    # In full precision: squares of scales vanish in float16.
    variance = layer.affine_map(
        tf.square(tf.cast(inputs, kernel.dtype)),
        tf.square(q_kernel.scale()),
        q_bias and tf.square(q_bias.scale()),
    )
    # The gradient of a square root is infinite at 0, which dead inputs do reach.
    positive = variance > 0
    scale = tf.where(positive, tf.sqrt(tf.where(positive, variance, 1)), 0)
    noise = tf.random.stateless_normal(tf.shape(scale), seed, dtype=scale.dtype, alg="philox")
    return mean + tf.cast(scale * noise, mean.dtype)


def flipout(
    layer, inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, seed: tf.Tensor
) -> tf.Tensor:
    """L(x, m) + r_out L(r_in x, w - m): each example turns the draw (Wen et al. 2018, equation 4).

    The signs r are drawn per example and channel and are constant over space, so that pixels of
    one example keep the correlation which their shared kernel gives them.
    """
    q_kernel, q_bias = layer.random_kernel, layer.random_bias
    mean = layer.affine_map(inputs, q_kernel.mean(), q_bias and q_bias.mean())
    turned = layer.affine_map(
        inputs * _signs(layer, inputs, fold_in(seed, 0)),
        kernel - q_kernel.mean(),
        q_bias and bias - q_bias.mean(),
    )
    return mean + turned * _signs(layer, turned, fold_in(seed, 1))


def _signs(layer, like: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws -1 and 1 of shape (B, 1, ..., C), or (B, C, 1, ...) with channels first."""
    shape = tf.unstack(tf.shape(like))
    channels = shape[layer.channel_axis]
    sizes = [shape[0]] + [1] * (len(shape) - 1)
    sizes[layer.channel_axis] = channels
    bits = tf.random.stateless_uniform(sizes, seed, 0, 2, tf.int32, alg="philox")
    return tf.cast(2 * bits - 1, like.dtype)
