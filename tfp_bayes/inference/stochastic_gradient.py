"""Keras optimizers that sample from the posterior instead of looking for its mode."""

import math

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.seeds import as_seed, fold_in

# Each would change the distribution that is sampled, or what weights a snapshot has.
_REFUSED = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema")


@keras.saving.register_keras_serializable("tfp_bayes")
class SGHMC(keras.optimizers.Optimizer):
    """Stochastic gradient Hamiltonian Monte Carlo: momentum with the noise that fits its friction.

    With the gradient g of the loss, which is a mean over N observations, a step is

        v <- (1 - alpha) v - eta g + sqrt(2 alpha eta T / N) xi,    w <- w + v,

    so that for small steps weights are distributed as exp(-N loss / T). At temperature T = 1 that
    is the posterior, if the loss is the mean NLL plus the negative log prior divided by N. The
    loss of a `BayesianModel` with `prior_scale` is; in a plain model a Gaussian prior of standard
    deviation s is the regularizer `keras.regularizers.L2(1 / (2 * N * s**2))`. No prior is flat.

    Args:
        learning_rate: eta: number or schedule; the noise follows that of the current step.
        num_train: N, the number of observations of which the loss is the mean: examples, or
            their pixels or outputs where the loss averages over those too.
        friction: alpha in (0, 1], one minus the momentum. 1 is Langevin dynamics, see `SGLD`.
        temperature: T >= 0: number, or schedule of the step. 1 is Bayes, 0 plain momentum. Figures
            published for such methods are often of temperatures far below 1.
        seed: Integer; the noise follows from it, the step and the place of the variable.
        name: String.
        **kwargs: Arguments of `keras.optimizers.Optimizer` that leave the distribution alone.

    Raises:
        ValueError: If an argument is out of range, or one would change the distribution, such as
            `weight_decay` and `clipnorm`.

    Reference:
        Chen et al. 2014, "Stochastic Gradient Hamiltonian Monte Carlo", equation 15,
        arXiv:1402.4102.

    Example:

    >>> optimizer = SGHMC(0.1, num_train=60_000)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        num_train: int,
        friction: float = 0.1,
        temperature: float | LearningRateSchedule = 1.0,
        seed: int = 0,
        name: str = "sghmc",
        **kwargs,
    ):
        refused = [each for each in _REFUSED if kwargs.get(each)]
        if refused:
            raise ValueError(
                "Expected no argument that changes the sampled distribution. Received: "
                f"{', '.join(f'{each}={kwargs[each]!r}' for each in refused)}. Hint: a prior "
                "belongs into the loss, see BayesianModel(prior_scale=)."
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        check_integers(1, num_train=num_train)
        check_integers(0, seed=seed)
        if not 0 < friction <= 1:
            raise ValueError(
                "Expected a number in (0, 1] for `friction`. Received: "
                f"friction={friction!r}. Hint: one minus the momentum, 0.1 is usual."
            )
        if not isinstance(temperature, LearningRateSchedule) and temperature != 0:
            check_positive(temperature=temperature)
        self.num_train = num_train
        self.friction = friction
        self.temperature = temperature
        self.seed = seed

    def build(self, variables) -> None:
        """Makes the velocities, unless friction stops them at once."""
        if self.built:
            return
        super().build(variables)
        if self.friction < 1:
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Takes a step of one variable."""
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        velocity = self._noise(variable, index, rate) - rate * tf.convert_to_tensor(
            tf.cast(gradient, variable.dtype)
        )
        if self.friction < 1:
            kept = self.velocities[index]
            velocity += (1 - self.friction) * tf.convert_to_tensor(kept)
            self.assign(kept, velocity)
        self.assign_add(variable, velocity)

    def _noise(self, variable, index: int, rate: tf.Tensor) -> tf.Tensor:
        temperature = self.temperature
        if isinstance(temperature, LearningRateSchedule):
            temperature = temperature(self._iterations)
        scale = tf.sqrt(
            2 * self.friction * rate * tf.cast(temperature, rate.dtype) / self.num_train
        )
        # Without a state: the same on all replicas, and after an interruption.
        seed = fold_in(as_seed(self.seed), tf.cast(self._iterations, tf.int32), index)
        return scale * noise.normal(variable.shape, seed, rate.dtype)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        temperature = self.temperature
        if isinstance(temperature, LearningRateSchedule):
            temperature = keras.optimizers.schedules.serialize(temperature)
        return {
            **super().get_config(),
            "num_train": self.num_train,
            "friction": self.friction,
            "temperature": temperature,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "SGHMC":
        """Makes the optimizer from `get_config()`."""
        if isinstance(config.get("temperature"), dict):
            schedule = keras.saving.deserialize_keras_object(config["temperature"], custom_objects)
            config = {**config, "temperature": schedule}
        return super().from_config(config, custom_objects)


@keras.saving.register_keras_serializable("tfp_bayes")
class SGLD(SGHMC):
    """Stochastic gradient Langevin dynamics: `SGHMC` with friction 1.

    A step is w <- w - eta g + sqrt(2 eta T / N) xi. It is the simplest sampler, and slower to move
    than `SGHMC`.

    Args:
        learning_rate: As of `SGHMC`.
        num_train: As of `SGHMC`.
        temperature: As of `SGHMC`.
        seed: As of `SGHMC`.
        name: As of `SGHMC`.
        **kwargs: As of `SGHMC`.

    Raises:
        ValueError: As `SGHMC`.

    Reference:
        Welling and Teh 2011, "Bayesian Learning via Stochastic Gradient Langevin Dynamics",
        equation 4, with the step of the reference being 2 eta / N.

    Example:

    >>> SGLD(0.01, num_train=60_000, temperature=1.0).friction
    1.0
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        num_train: int,
        temperature: float | LearningRateSchedule = 1.0,
        seed: int = 0,
        name: str = "sgld",
        **kwargs,
    ):
        super().__init__(learning_rate, num_train, 1.0, temperature, seed, name, **kwargs)

    def get_config(self) -> dict:
        """See `SGHMC.get_config`."""
        config = super().get_config()
        del config["friction"]
        return config


@keras.saving.register_keras_serializable("tfp_bayes")
class CosineCycles(LearningRateSchedule):
    """A learning rate that falls along a cosine, again and again.

    In step k of a cycle of C it is rate / 2 (1 + cos(pi k / C)), but never below a hundredth of
    the rate: at 0 the chain would stand still and its last snapshots would be one.

    Args:
        learning_rate: That of a cycle's first step.
        cycle_steps: C.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Zhang et al. 2020, "Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning",
        equation 1, arXiv:1902.03932.

    Example:

    >>> from tfp_bayes.inference.stochastic_gradient import CosineCycles
    >>> [round(float(CosineCycles(1.0, 4)(k)), 2) for k in (0, 1, 2, 3, 4)]
    [1.0, 0.85, 0.5, 0.15, 1.0]
    """

    def __init__(self, learning_rate: float, cycle_steps: int):
        check_positive(learning_rate=learning_rate)
        check_integers(1, cycle_steps=cycle_steps)
        self.learning_rate = learning_rate
        self.cycle_steps = cycle_steps

    def __call__(self, step) -> tf.Tensor:
        """Returns the rate of a step, from 0."""
        k = tf.cast(_step_of_cycle(step, self.cycle_steps), tf.float64) / self.cycle_steps
        share = (1 + tf.cos(math.pi * k)) / 2
        return tf.cast(self.learning_rate * tf.maximum(share, 0.01), tf.float32)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {"learning_rate": self.learning_rate, "cycle_steps": self.cycle_steps}


@keras.saving.register_keras_serializable("tfp_bayes")
class LateNoise(LearningRateSchedule):
    """A temperature of 0 while a cycle explores, and of T while it samples.

    Args:
        temperature: T.
        cycle_steps: Steps of a cycle.
        noise_steps: Number of its last steps that have noise.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from tfp_bayes.inference.stochastic_gradient import LateNoise
    >>> [float(LateNoise(1.0, 4, 2)(k)) for k in (0, 1, 2, 3, 4)]
    [0.0, 0.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, temperature: float, cycle_steps: int, noise_steps: int):
        check_positive(temperature=temperature)
        check_integers(1, noise_steps=noise_steps)
        check_integers(noise_steps, cycle_steps=cycle_steps)
        self.temperature = temperature
        self.cycle_steps = cycle_steps
        self.noise_steps = noise_steps

    def __call__(self, step) -> tf.Tensor:
        """Returns the temperature of a step, from 0."""
        is_late = _step_of_cycle(step, self.cycle_steps) >= self.cycle_steps - self.noise_steps
        return tf.where(is_late, tf.constant(self.temperature, tf.float32), 0.0)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {
            "temperature": self.temperature,
            "cycle_steps": self.cycle_steps,
            "noise_steps": self.noise_steps,
        }


def _step_of_cycle(step, cycle_steps: int) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(step), tf.int64) % cycle_steps
