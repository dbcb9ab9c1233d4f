"""Frozen layers with low-rank updates whose first factor is random."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfp_bayes import posteriors, priors
from tfp_bayes._plumbing.checks import check_absent, check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.keras_internals import replace_projections
from tfp_bayes.layers.attention import projection_seed
from tfp_bayes.layers.dense import DenseFlipout
from tfp_bayes.layers.einsum_dense import EinsumDenseFlipout
from tfp_bayes.layers.factored_equation import factor_equation

# The prior of the first factor in BLoB (sigma_p).
A_PRIOR = priors.Normal(scale=0.2)
DEFAULT_RANK = 8

Shape = tuple[int | None, ...]
# Arguments of every Keras layer. All others belong to the frozen layer.
_OF_ANY_LAYER = ("name", "trainable", "dtype", "activity_regularizer")
# Arguments of Keras layers that a layer with an update cannot honor. Regularizers are accepted,
# because a penalty on frozen weights is constant.
REFUSED = {
    "kernel_constraint": "the sum of the kernel and its update would break it",
    "bias_constraint": "the bias is frozen, so nothing would enforce it",
    "lora_rank": "a kernel has one update; merge the Keras update into the kernel first",
    "quantization_config": "quantize to_deterministic(model) instead",
}


def check_kept(owner: str, arguments: dict) -> None:
    """Raise ValueError if a layer with an update cannot honor an argument of a Keras layer."""
    check_absent(owner, arguments, REFUSED)


class _Frozen(keras.layers.Layer):
    """A layer that stays frozen when `trainable` is set on a model or layer around it.

    `model.trainable = True` sets the flag of every nested layer, and so does loading a model.
    """

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, False)


class _FrozenDense(_Frozen, keras.layers.Dense):
    pass


class _FrozenEinsumDense(_Frozen, keras.layers.EinsumDense):
    pass


class _LoRA(keras.layers.Layer):
    """y = activation(x W0 + b + (alpha / rank) (x A) B), with W0 and b frozen.

    A subclass sets `base_class` and creates `lora_a` and `lora_b` with `make_parts`.
    """

    base_class: type[keras.layers.Layer]

    def __init__(
        self,
        rank: int,
        alpha: float | None,
        *,
        a_prior: str | dict | priors.Prior | None = A_PRIOR,
        a_posterior: str | dict | posteriors.Posterior | None = None,
        a_initializer: str | dict | keras.initializers.Initializer = "he_uniform",
        b_initializer: str | dict | keras.initializers.Initializer = "zeros",
        seed: int | None = None,
        activation: str | Callable | None = None,
        **kwargs,
    ):
        check_kept(type(self).__name__, {name: kwargs.pop(name, None) for name in REFUSED})
        super().__init__(**{k: kwargs.pop(k) for k in _OF_ANY_LAYER if k in kwargs})
        check_integers(1, rank=rank)
        if alpha is not None:
            check_positive(alpha=alpha)
        self.rank = rank
        self.alpha = alpha
        self.a_prior = priors.get(a_prior, "a_prior")
        self.a_posterior = _posterior_of_a(a_posterior, self.a_prior)
        self.a_initializer = keras.initializers.get(a_initializer)
        self.b_initializer = keras.initializers.get(b_initializer)
        self.seed = seed
        self.activation = keras.activations.get(activation)
        self.supports_masking = True
        self.base = self.base_class(dtype=self.dtype_policy, name="base", **kwargs)

    @property
    def scaling(self) -> float:
        """The factor alpha / rank that multiplies the update."""
        return 2.0 if self.alpha is None else self.alpha / self.rank

    def make_parts(self, plain: type, random: type, a: tuple, b: tuple) -> None:
        """Create `lora_a` and `lora_b`.

        Args:
            plain: Layer class for B, and for A if there is no prior.
            random: Layer class for A if there is a prior.
            a: Positional arguments for A.
            b: Positional arguments for B.
        """
        shared = {"dtype": self.dtype_policy}
        if plain is keras.layers.Dense:
            shared["use_bias"] = False
        of_a = {**shared, "name": "lora_a", "kernel_initializer": self.a_initializer}
        if self.a_prior is None:
            self.lora_a = plain(*a, **of_a)
        else:
            belief = {"kernel_prior": self.a_prior, "kernel_posterior": self.a_posterior}
            self.lora_a = random(*a, seed=self.seed, **belief, **of_a)
        self.lora_b = plain(*b, **shared, name="lora_b", kernel_initializer=self.b_initializer)

    def check_rank(self, num_inputs: int, num_outputs: int) -> None:
        """Raise ValueError if the rank exceeds the smaller side of the kernel."""
        if self.rank > min(num_inputs, num_outputs):
            raise ValueError(
                f"Expected a `rank` of {self.name!r} of at most {min(num_inputs, num_outputs)}, "
                f"the smaller side of its kernel ({num_inputs}, {num_outputs}). "
                f"Received: rank={self.rank!r}. Hint: a higher rank adds no flexibility."
            )

    def factors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the means of A and B, in the dtype of the weights."""
        return tf.convert_to_tensor(self.lora_a.kernel), tf.convert_to_tensor(self.lora_b.kernel)

    def merged_kernel(self) -> tf.Tensor:
        """Return W0 + (alpha / rank) E[A] B, the mean kernel, in the shape and dtype of W0."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the outputs."""
        return self.base.compute_output_shape(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the activation of the frozen layer's outputs plus the update."""
        outputs = self.base(inputs)
        outputs += self.lora_b(self.scaling * self.lora_a(inputs))
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        inner = self.base.get_config()
        serialize = keras.saving.serialize_keras_object
        return {
            **{k: v for k, v in inner.items() if k not in (*_OF_ANY_LAYER, *REFUSED)},
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "rank": self.rank,
            "alpha": self.alpha,
            "a_prior": self.a_prior and serialize(self.a_prior),
            "a_posterior": self.a_posterior and serialize(self.a_posterior),
            "a_initializer": keras.initializers.serialize(self.a_initializer),
            "b_initializer": keras.initializers.serialize(self.b_initializer),
            "seed": self.seed,
        }


def _posterior_of_a(
    given: str | dict | posteriors.Posterior | None, prior: priors.Prior | None
) -> posteriors.Posterior | None:
    if given is None:
        return None if prior is None else posteriors.MeanFieldNormal()
    if prior is None:
        raise ValueError(
            "Expected an `a_prior` together with `a_posterior`. Received: a_prior=None, "
            f"a_posterior={given!r}. Hint: without a prior, A is an ordinary weight."
        )
    return posteriors.get(given, "a_posterior")


@keras.saving.register_keras_serializable("tfp_bayes")
class LoRADense(_LoRA):
    """A frozen dense layer with an uncertain low-rank update (LoRA).

    y = activation(x W0 + b + (alpha / rank) (x A) B). W0 (F, units) and b stay frozen whatever
    `trainable` is set to. A (F, rank) has a posterior, and B (rank, units) is trained. B starts at
    zero, so the layer first computes the same as a `Dense` layer with W0 and b.
    `to_bayesian(model, "lora")` replaces the Dense layers of a trained network with it. The layer
    saves W0, A and B separately, whereas `enable_lora` of Keras saves the merged kernel.

    Args:
        units: Number of outputs.
        rank: Number of columns of A, at most min(F, units).
        alpha: The update is multiplied by alpha / rank. None uses 2 rank.
        a_prior: Prior on A, see `tfp_bayes.priors`. The default is Normal(0, 0.2). None makes A
            an ordinary weight, so that nothing in the layer is random, for use with `SWAG` and
            `Laplace`. B has no prior and can absorb any factor, so the scale of this prior affects
            where training starts, but not which updates it can reach.
        a_posterior: Posterior family of A: independent normals or "deterministic". None uses
            "mean_field_normal" if there is a prior.
        a_initializer: Initializer of the mean of A.
        b_initializer: Initializer of B.
        seed: Integer or None.
        **kwargs: Keyword arguments of `keras.layers.Dense`, except constraints. Regularizers are
            accepted, but a penalty on frozen weights is constant and is not added.

    Randomness:
        `training=False`: one draw of A for the whole batch. `training=True`: Flipout, which
        multiplies the draw by random signs for each example; the positions of one example share
        them.

    Losses:
        In training, KL(q(A) || prior).

    Raises:
        ValueError: If `rank` is not between 1 and min(F, units), `alpha` is not positive, or the
            arguments contradict each other.

    Reference:
        Hu et al. 2021, "LoRA", equation 3, arXiv:2106.09685. Wang et al. 2024, "BLoB: Bayesian
        Low-Rank Adaptation by Backpropagation", equations 4 to 6, arXiv:2406.11675, which is the
        source of the prior scale 0.2. The scale of A is parameterized as in `MeanFieldNormal`.

    Example:

    >>> layer = LoRADense(6, rank=2, b_initializer="ones", seed=0)
    >>> y = layer(np.ones((3, 4)))  # one draw of A: equal rows stay equal
    >>> bool(np.all(y[0] == y[1])), bool(np.all(y == layer(np.ones((3, 4)))))
    (True, False)
    >>> [weight.path.split("/", 1)[1] for weight in layer.trainable_weights]
    ['lora_a/kernel_loc', 'lora_a/kernel_untransformed_scale', 'lora_b/kernel']
    """

    base_class = _FrozenDense

    def __init__(self, units: int, rank: int = DEFAULT_RANK, alpha: float | None = None, **kwargs):
        super().__init__(rank, alpha, units=units, **kwargs)
        self.make_parts(keras.layers.Dense, DenseFlipout, (rank,), (units,))

    def build(self, input_shape: Shape) -> None:
        """Create the frozen weights and the factors."""
        self.base.build(input_shape)
        self.check_rank(*self.base.kernel.shape)
        self.lora_a.build(input_shape)
        self.lora_b.build((*input_shape[:-1], self.rank))
        self.built = True

    def merged_kernel(self) -> tf.Tensor:
        """See `_LoRA.merged_kernel`."""
        a, b = self.factors()
        return self.base.kernel + self.scaling * tf.matmul(a, b)


@keras.saving.register_keras_serializable("tfp_bayes")
class LoRAEinsumDense(_LoRA):
    """A frozen `EinsumDense` layer with an uncertain low-rank update (LoRA).

    As a matrix, the kernel has the axes that it shares with the inputs as rows and the others as
    columns: for "abc,cde->abde", A is (c, rank) and B is (rank, d, e). Everything else is as in
    `LoRADense`.

    Args:
        equation: Equation of `keras.layers.EinsumDense`. Each axis of the kernel must be an axis
            of the inputs or of the outputs, but not of both.
        output_shape: Output shape, as in `keras.layers.EinsumDense`.
        rank: Number of columns of A, at most the number of rows and of columns of the kernel.
        alpha: See `LoRADense`.
        a_prior: See `LoRADense`.
        a_posterior: See `LoRADense`.
        a_initializer: See `LoRADense`.
        b_initializer: See `LoRADense`.
        seed: Integer or None.
        **kwargs: Keyword arguments of `keras.layers.EinsumDense`, except constraints.

    Raises:
        ValueError: If inputs, kernel and outputs share an axis. See also `LoRADense`.

    Example:

    >>> layer = LoRAEinsumDense("abc,cde->abde", (None, 2, 3), rank=2, seed=0)
    >>> layer(np.ones((2, 5, 4)), training=True).shape
    TensorShape([2, 5, 2, 3])
    """

    base_class = _FrozenEinsumDense

    def __init__(
        self,
        equation: str,
        output_shape: int | tuple[int | None, ...],
        rank: int = DEFAULT_RANK,
        alpha: float | None = None,
        **kwargs,
    ):
        super().__init__(rank, alpha, equation=equation, output_shape=output_shape, **kwargs)
        self._equation = factor_equation(equation, self.base.partial_output_shape, rank)
        a, b = self._equation.a, self._equation.b
        self.make_parts(keras.layers.EinsumDense, EinsumDenseFlipout, a, b)

    def build(self, input_shape: Shape) -> None:
        """Create the frozen weights and the factors."""
        self.base.build(input_shape)
        self.check_rank(*self._equation.sizes(self.base.kernel.shape))
        self.lora_a.build(input_shape)
        self.lora_b.build(self.lora_a.compute_output_shape(input_shape))
        self.built = True

    def merged_kernel(self) -> tf.Tensor:
        """See `_LoRA.merged_kernel`."""
        return self.base.kernel + self.scaling * tf.einsum(self._equation.product, *self.factors())


@keras.saving.register_keras_serializable("tfp_bayes")
class LoRAMultiHeadAttention(keras.layers.MultiHeadAttention):
    """Multi-head attention whose projections are frozen and have low-rank updates (LoRA).

    Each projection is a `LoRAEinsumDense` layer.

    Args:
        num_heads: Number of heads.
        key_dim: Size of each head's queries and keys.
        rank: Rank of the update of each projection. See `LoRADense`.
        alpha: See `LoRADense`, also for `a_prior`, `a_posterior`, `a_initializer` and
            `b_initializer`.
        seed: Integer or None. Each projection derives its own seed from it.
        **kwargs: Arguments of `keras.layers.MultiHeadAttention`. Its `dropout` acts in training
            only, as in Keras, and is not part of the posterior.

    Raises:
        ValueError: See `LoRADense`.

    Example:

    >>> layer = LoRAMultiHeadAttention(2, 4, rank=2, seed=0)
    >>> layer(np.ones((2, 5, 8)), np.ones((2, 3, 8))).shape
    TensorShape([2, 5, 8])
    """

    _OPTIONS = ("a_prior", "a_posterior", "a_initializer", "b_initializer")

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        rank: int = DEFAULT_RANK,
        alpha: float | None = None,
        *,
        seed: int | None = None,
        **kwargs,
    ):
        options = {name: kwargs.pop(name) for name in self._OPTIONS if name in kwargs}
        check_kept(type(self).__name__, kwargs)
        super().__init__(num_heads, key_dim, seed=seed, **kwargs)
        # One projection, never built, checks and normalizes the arguments that all of them share.
        unused = {"kernel_initializer": "zeros", "seed": 0}  # values that draw no random seed
        config = LoRAEinsumDense("ab,bc->ac", 1, rank, alpha, **unused, **options).get_config()
        self._options = {name: config[name] for name in ("rank", "alpha", *self._OPTIONS)}

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Create the projections."""
        super().build(query_shape, value_shape, key_shape)
        replace_projections(self, self._low_rank)

    def _low_rank(self, plain: keras.layers.EinsumDense) -> LoRAEinsumDense:
        seed = projection_seed(self.seed, plain.name)
        new = LoRAEinsumDense.from_config({**plain.get_config(), **self._options, "seed": seed})
        new.build(plain.get_build_config()["input_shape"])
        return new

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        return {**super().get_config(), **self._options}
