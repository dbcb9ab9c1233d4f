"""Turns a classifier into one that is a Gaussian process of its features."""

import keras

from tfp_bayes.inference.last_layer import LastLayer
from tfp_bayes.layers import RandomFeatures, SpectralNormConstraint
from tfp_bayes.models.conversion import GraphCopy, Replacement, copy_layer
from tfp_bayes.models.layer_state import copy_state

_KINDS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


def to_sngp(
    model: keras.Model,
    num_features: int = 1024,
    length_scale: float | None = None,
    bound: float | None = 6.0,
    *,
    seed: int | None = None,
) -> keras.Model:
    """Returns a copy of a classifier whose last layer is a Gaussian process (SNGP).

    Use it for a single network that is less sure the further an input is from its training data.
    The last layer becomes `RandomFeatures` and a Dense layer without bias, which are new, and
    kernels before it get a `SpectralNormConstraint`. Train the copy as usual; then find the
    posterior of its last layer in one exact pass, with one covariance that all classes share::

        sngp = tfp_bayes.to_sngp(model)
        sngp.compile("adam", "sparse_categorical_crossentropy")
        method = tfp_bayes.Laplace("shared", prior_scale=1.0, variables="last_layer")
        posterior = method.fit(sngp, x, y, epochs=10)
        Predictor(sngp, posterior=posterior).predict_uncertainty(x_test)

    The precision is that of all training data at the trained weights, each counted once with the
    second derivative of its likelihood. No average moves during training, nothing has to be reset
    between epochs, and prediction changes no state. A ridge r is prior_scale = r^(-1/2); with
    `validation_data` the scale is the one that predicts them best.

    Args:
        model: A built functional or Sequential classifier without stochastic layers that ends in a
            Dense layer with a softmax; not changed.
        num_features: Number of random features, D.
        length_scale: Of the kernel, see `RandomFeatures`.
        bound: Of the kernels of Dense and convolution layers that have no constraint of their own,
            see `SpectralNormConstraint`; None leaves all as they are. Below 1, only networks with
            skip connections learn well. Depthwise, separable and transposed convolutions,
            EinsumDense, recurrent layers and attention are not bounded.
        seed: Of the random features, integer or None.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ValueError: If the model does not end so, or an argument is out of range.

    Reference:
        Liu et al. 2020, "Simple and Principled Uncertainty Estimation with Deterministic Deep
        Learning via Distance Awareness", algorithm 1, arXiv:2006.10108.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    >>> [type(layer).__name__ for layer in to_sngp(model, 64).layers]
    ['InputLayer', 'Dense', 'RandomFeatures', 'Dense']
    """
    constraint = None if bound is None else SpectralNormConstraint(bound)

    def replace(layer: keras.Layer) -> Replacement | None:
        known = isinstance(layer, _KINDS) and layer.kernel_constraint is None
        if constraint is None or not known:
            return None
        new = copy_layer(layer)
        new.kernel_constraint = constraint
        return Replacement(new, lambda: copy_state(layer, new))

    head = LastLayer(GraphCopy(model, replace).model)
    # Names that are free, where Keras' next automatic ones may be those of copied layers.
    name = head.layer.name
    phi = RandomFeatures(num_features, length_scale, seed=seed, name=f"{name}_random_features")
    last = keras.layers.Dense(
        head.layer.units, "softmax", use_bias=False, dtype=head.layer.dtype_policy, name=name
    )
    return keras.Model(head.network.input, last(phi(head.network.output)))
