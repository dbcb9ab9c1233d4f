"""Conversion between Keras layers and frozen layers with low-rank updates."""

import keras

from tfp_bayes import priors
from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes.layers import LoRAEinsumDense, LoRAMultiHeadAttention
from tfp_bayes.layers.factored_equation import factor_equation
from tfp_bayes.layers.lora import DEFAULT_RANK, REFUSED, check_kept
from tfp_bayes.models.layer_pair import LayerPair


class LowRank(LayerPair):
    """A twin with the frozen weights of its Keras layer and a low-rank update.

    The conversion back adds the mean of the update to the kernel.
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
            layer: A built Keras layer.
            prior: Prior on the first factor. None makes that factor a plain weight.
            rank: Rank of the update. A kernel too small for it gets its largest possible rank, with
                the same alpha / rank.
            alpha: Numerator of the factor alpha / rank of the update. None is 2 rank.
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
        """See `LayerPair.fill_bayesian`. The factors keep their initial values."""
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
    """List the layers with an update each, in the order of the Keras layer's weights."""
    if not isinstance(layer, LoRAMultiHeadAttention):
        return [layer]
    return [each for each in flatten_layers(layer) if isinstance(each, LoRAEinsumDense)]


def _largest_rank(layer: keras.layers.Layer) -> int:
    """Return the largest rank possible for the updates of all kernels of a layer, or 0."""
    if isinstance(layer, keras.layers.Dense):
        return min(layer.kernel.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        try:
            equation = factor_equation(layer.equation, layer.partial_output_shape, 1)
        except ValueError:
            return 0
        return min(equation.sizes(layer.kernel.shape))
    parts = flatten_layers(layer)
    return min(_largest_rank(each) for each in parts if isinstance(each, keras.layers.EinsumDense))
