"""Frozen layers with low-rank updates, whose first factor is random."""

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
# Arguments of every Keras layer; the others are those of the frozen one.
_OF_ANY_LAYER = ("name", "trainable", "dtype", "activity_regularizer")
# What the sum of a kernel and its update cannot keep to. A penalty on frozen weights is constant.
REFUSED = {
    "kernel_constraint": "the sum of the kernel and its update would break it",
    "bias_constraint": "the bias is frozen, so that nothing would enforce it",
    "lora_rank": "a kernel has one update; merge Keras' own into it first",
    "quantization_config": "quantize to_deterministic(model) instead",
}


def check_kept(owner: str, arguments: dict) -> None:
    """Raises ValueError if arguments of a Keras layer ask for what an update would break."""
    check_absent(owner, arguments, REFUSED)


class _Frozen(keras.layers.Layer):
    """A layer that stays frozen, whatever the flags around it are set to.

    `model.trainable = True`, as also loading a model sets it, reaches every layer inside.
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
    """y = activation(W0 x + b + (alpha / rank) B A x), with W0 and b frozen.

    A subclass makes `base`, `lora_a` and `lora_b`.
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
        """The factor alpha / rank of the update."""
        return 2.0 if self.alpha is None else self.alpha / self.rank

    def make_parts(self, plain: type, random: type, a: tuple, b: tuple) -> None:
        """Makes `lora_a` and `lora_b`.

        Args:
            plain: Class of B, and of A without a prior.
            random: Class of A under a prior.
            a: Positional arguments of A.
            b: Positional arguments of B.
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
        """Raises ValueError if the factors have more columns than the kernel has dimensions."""
        if self.rank > min(num_inputs, num_outputs):
            raise ValueError(
                f"Expected a `rank` of {self.name!r} of at most {min(num_inputs, num_outputs)}, "
                f"the smaller side of its kernel ({num_inputs}, {num_outputs}). "
                f"Received: rank={self.rank!r}. Hint: a higher rank reaches nothing more."
            )

    def factors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the means of A and B, in the dtype of the weights."""
        return tf.convert_to_tensor(self.lora_a.kernel), tf.convert_to_tensor(self.lora_b.kernel)

    def merged_kernel(self) -> tf.Tensor:
        """Returns W0 + (alpha / rank) E[A] B, the mean of the kernel; shape and dtype of W0."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the shape of the outputs."""
        return self.base.compute_output_shape(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the outputs of the frozen layer and its update, after the activation."""
        outputs = self.base(inputs)
        outputs += self.lora_b(self.scaling * self.lora_a(inputs))
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
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
            "Expected an `a_prior` beside `a_posterior`. Received: a_prior=None, "
            f"a_posterior={given!r}. Hint: without a prior, A is a plain weight."
        )
    return posteriors.get(given, "a_posterior")


@keras.saving.register_keras_serializable("tfp_bayes")
class LoRADense(_LoRA):
    """A frozen dense layer with a low-rank update of which it is uncertain (LoRA).

    y = activation(x W0 + b + (alpha / rank) (x A) B). W0 (F, units) and b stay as they are, under
    any `trainable` flag; A (F, rank) has a posterior and B (rank, units) is trained. As B starts
    from zeros, the layer first computes what a `Dense` layer with W0 and b does.
    `to_bayesian(model, "lora")` puts it in the place of the Dense layers of a trained network. It
    saves W0, A and B one by one, where Keras' `enable_lora` saves their sum.

    Args:
        units: Number of outputs.
        rank: Columns of A, at most min(F, units).
        alpha: The update is multiplied by alpha / rank; None is 2 rank.
        a_prior: Prior on A, see `tfp_bayes.priors`, Normal(0, 0.2) by default; None makes A a
            plain weight, so that nothing in the layer is random: for `SWAG` and `Laplace`. As B
            has no prior and takes up any factor, the scale of this one decides where training
            starts, not what it may reach.
        a_posterior: Posterior of A, of independent normals or "deterministic"; None is
            "mean_field_normal" under a prior.
        a_initializer: Initializer of the mean of A.
        b_initializer: Initializer of B.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Dense`, by name; no constraints. Penalties on frozen
            weights are constant, and not added.

    Randomness:
        `training=False`: one draw of A for the whole batch. `training=True`: Flipout, which turns
        the draw for each example; the positions of one example share it.

    Losses:
        In training, KL(q(A) || prior).

    Raises:
        ValueError: If `rank` is not from 1 to min(F, units), `alpha` is not positive, or the
            arguments contradict each other.

    Reference:
        Hu et al. 2021, "LoRA", equation 3, arXiv:2106.09685. Wang et al. 2024, "BLoB: Bayesian
        Low-Rank Adaptation by Backpropagation", equations 4 to 6, arXiv:2406.11675, with its
        prior scale of 0.2; the scale of A is parameterized as everywhere here.

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
        """Makes the frozen weights and the factors."""
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
    """A frozen `EinsumDense` layer with a low-rank update of which it is uncertain (LoRA).

    The axes of the kernel that are summed over are the rows of the update, the others its columns:
    for "abc,cde->abde" A is (c, rank) and B (rank, d, e). All else is as in `LoRADense`.

    Args:
        equation: Of `keras.layers.EinsumDense`; each axis of the kernel is of either the inputs
            or the outputs.
        output_shape: Of `keras.layers.EinsumDense`.
        rank: Columns of A, at most the smaller of both products of sizes.
        alpha: See `LoRADense`, as the other arguments.
        a_prior: See `LoRADense`.
        a_posterior: See `LoRADense`.
        a_initializer: See `LoRADense`.
        b_initializer: See `LoRADense`.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.EinsumDense`, by name; no constraints.

    Raises:
        ValueError: See `LoRADense`; and if the equation has an axis that is of inputs, kernel and
            outputs, whose every index has a map of its own.

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
        """Makes the frozen weights and the factors."""
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
    """Multi-head attention that projects with `LoRAEinsumDense`, all of its weights frozen.

    Args:
        num_heads: Number of heads.
        key_dim: Size of each head's queries and keys.
        rank: Of the update of each projection, see `LoRADense`.
        alpha: See `LoRADense`, as `a_prior`, `a_posterior`, `a_initializer`, `b_initializer`.
        seed: Integer or None; each projection has noise of its own.
        **kwargs: Arguments of `keras.layers.MultiHeadAttention`. Its `dropout` acts in training
            only, as in Keras; it is no part of the posterior.

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
        # A projection that is never built reads and checks what all of them are given.
        unused = {"kernel_initializer": "zeros", "seed": 0}  # nothing that draws a seed
        config = LoRAEinsumDense("ab,bc->ac", 1, rank, alpha, **unused, **options).get_config()
        self._options = {name: config[name] for name in ("rank", "alpha", *self._OPTIONS)}

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Makes the projections."""
        super().build(query_shape, value_shape, key_shape)
        replace_projections(self, self._low_rank)

    def _low_rank(self, plain: keras.layers.EinsumDense) -> LoRAEinsumDense:
        seed = projection_seed(self.seed, plain.name)
        new = LoRAEinsumDense.from_config({**plain.get_config(), **self._options, "seed": seed})
        new.build(plain.get_build_config()["input_shape"])
        return new

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
        return {**super().get_config(), **self._options}
