"""Conversion between Keras layers and frozen ones with low-rank updates."""

import math

import keras

from tfp_bayes import priors
from tfp_bayes.layers import LoRAEinsumDense, LoRAMultiHeadAttention
from tfp_bayes.layers.factored_equation import factor_equation
from tfp_bayes.layers.lora import DEFAULT_RANK, REFUSED, check_kept
from tfp_bayes.models.layer_pair import LayerPair


class LowRank(LayerPair):
    """A twin with the frozen weights of its Keras layer and a low-rank update.

    On the way back the mean of the update is added to the kernel.
    """

    def has_twin(self, layer: keras.layers.Layer) -> bool:
        """See `LayerPair.has_twin`."""
        return super().has_twin(layer) and bool(_largest_rank(layer))

    def make_bayesian(
        self,
        layer: keras.layers.Layer,
        prior: priors.Prior | None,
        rank: int = DEFAULT_RANK,
        alpha: float | None = None,
    ) -> keras.layers.Layer:
        """See `LayerPair.make_bayesian`.

        Args:
            layer: Built.
            prior: On the first factor; None makes it a plain weight.
            rank: Of the update; of a smaller kernel the largest that it has, with the same
                alpha / rank.
            alpha: The update is multiplied by alpha / rank; None is 2 rank.
        """
        config = layer.get_config()
        check_kept(f"layer {layer.name!r}", config)
        reached = min(rank, _largest_rank(layer))
        of_update = {"rank": reached, "alpha": alpha and alpha * reached / rank, "a_prior": prior}
        config = {name: value for name, value in config.items() if name not in REFUSED}
        return self.bayesian_class.from_config({**config, **of_update})

    def fill_bayesian(
        self, old: keras.layers.Layer, new: keras.layers.Layer, moped_delta: float | None
    ) -> None:
        """See `LayerPair.fill_bayesian`; the factors keep what they start from."""
        values = iter(old.get_weights())
        for part in _parts(new):
            part.base.set_weights([next(values) for _ in part.base.weights])

    def fill_keras(self, old: keras.layers.Layer, new: keras.layers.Layer) -> None:
        """See `LayerPair.fill_keras`."""
        values = []
        for part in _parts(old):
            values += [part.merged_kernel().numpy(), *part.base.get_weights()[1:]]
        new.set_weights(values)


def _parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Lists what has an update of its own, in the order of the Keras layer's weights."""
    if not isinstance(layer, LoRAMultiHeadAttention):
        return [layer]
    return [each for each in layer._flatten_layers() if isinstance(each, LoRAEinsumDense)]


def _largest_rank(layer: keras.layers.Layer) -> int:
    """Returns the largest rank that updates of all kernels of a layer can have; 0 is none."""
    if isinstance(layer, keras.layers.Dense):
        return min(layer.kernel.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        try:
            equation = factor_equation(layer.equation, layer.partial_output_shape, 1)
        except ValueError:
            return 0
        return min(equation.sizes(layer.kernel.shape))
    kernels = [weight.shape for weight in layer.weights if weight.name == "kernel"]
    # Queries, keys and values map the last axis of inputs, and all but the last of the heads'.
    return min(min(shape[0], math.prod(shape[1:])) for shape in kernels)
