"""Turn the last layer of a classifier into a Gaussian process (SNGP)."""

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
    """Return a copy of a classifier whose last layer is a Gaussian process (SNGP).

    Use it for a single network whose confidence decreases with the distance of an input from the
    training data. The last layer is replaced by new `RandomFeatures` and a new Dense layer without
    bias. Kernels before it get a `SpectralNormConstraint`. Train the copy as usual. Then compute
    the posterior of its last layer in one exact pass, with one covariance that all classes share::

        sngp = tfp_bayes.to_sngp(model)
        sngp.compile("adam", "sparse_categorical_crossentropy")
        method = tfp_bayes.Laplace("shared", prior_scale=1.0, variables="last_layer")
        posterior = method.fit(sngp, x, y, epochs=10)
        Predictor(sngp, posterior=posterior).predict_uncertainty(x_test)

    The precision is computed at the trained weights. Each training example contributes to it once,
    weighted by the second derivative of its likelihood. There is no moving average during
    training, nothing to reset between epochs, and prediction does not change any state. A ridge r
    of other implementations corresponds to prior_scale = r^(-1/2). With `validation_data`, the
    scale that predicts the validation data best is used.

    Args:
        model: A built functional or Sequential classifier without stochastic layers that ends in a
            Dense layer with a softmax. It is not changed.
        num_features: Number D of random features.
        length_scale: Length scale of the kernel, see `RandomFeatures`.
        bound: Spectral norm bound on the kernels of Dense and convolution layers that have no other
            constraint, see `SpectralNormConstraint`. None adds no constraint. Below 1, only
            networks with skip connections learn well. Depthwise, separable and transposed
            convolutions, EinsumDense, recurrent layers and attention are not bounded.
        seed: Seed of the random features, an integer or None.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ValueError: If the model does not end in a Dense layer with a softmax, has stochastic
            layers, or an argument is out of range.

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
    # The next automatic names of Keras may already be those of copied layers.
    name = head.layer.name
    phi = RandomFeatures(num_features, length_scale, seed=seed, name=f"{name}_random_features")
    last = keras.layers.Dense(
        head.layer.units, "softmax", use_bias=False, dtype=head.layer.dtype_policy, name=name
    )
    return keras.Model(head.network.input, last(phi(head.network.output)))
