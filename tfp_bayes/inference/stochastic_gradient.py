"""Keras optimizers that sample from the posterior instead of finding its mode."""

import math

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.seeds import as_seed, fold_in

# Each of these changes the distribution that is sampled, or the weights in a snapshot.
_REFUSED = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema")


@keras.saving.register_keras_serializable("tfp_bayes")
class SGHMC(keras.optimizers.Optimizer):
    """Stochastic gradient Hamiltonian Monte Carlo: momentum with noise that balances the friction.

    With the gradient g of the loss, which is a mean over N observations, a step is

        v <- (1 - alpha) v - eta g + sqrt(2 alpha eta T / N) xi,    w <- w + v,

    where xi is standard normal. For small steps, the weights have density proportional to
    exp(-N loss / T). At temperature T = 1 this is the posterior, if the loss is the mean NLL plus
    the negative log prior divided by N, as in a `BayesianModel` with `prior_scale`. In a plain
    model, use the regularizer `keras.regularizers.L2(1 / (2 * N * s**2))` for a Gaussian prior with
    standard deviation s. Without one, the prior is flat.

    Args:
        learning_rate: Learning rate eta, a number or a schedule. The noise depends on the learning
            rate of the current step.
        num_train: Number of observations N that the loss is the mean over: examples, or their
            pixels or outputs if the loss averages over those too.
        friction: Friction alpha in (0, 1], which is one minus the momentum. 1 gives Langevin
            dynamics, see `SGLD`.
        temperature: Temperature T >= 0, a number or a schedule. 1 samples the Bayesian posterior,
            and 0 is plain momentum. Published results for such methods often use temperatures far
            below 1.
        seed: Integer. The noise depends on the seed, the step and the position of the variable.
        name: Name of the optimizer.
        **kwargs: Other arguments of `keras.optimizers.Optimizer`, unless they change the sampled
            distribution.

    Raises:
        ValueError: If an argument is out of range, or would change the sampled distribution, such
            as `weight_decay` and `clipnorm`.

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
                f"{', '.join(f'{each}={kwargs[each]!r}' for each in refused)}. Hint: make a prior "
                "part of the loss, see BayesianModel(prior_scale=...)."
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        check_integers(1, num_train=num_train)
        check_integers(0, seed=seed)
        if not 0 < friction <= 1:
            raise ValueError(
                "Expected a number in (0, 1] for `friction`. Received: "
                f"friction={friction!r}. Hint: friction is one minus the momentum; 0.1 is a common "
                "choice."
            )
        if not isinstance(temperature, LearningRateSchedule) and temperature != 0:
            check_positive(temperature=temperature)
        self.num_train = num_train
        self.friction = friction
        self.temperature = temperature
        self.seed = seed

    def build(self, variables) -> None:
        """Create the velocities, which a friction of 1 does not need."""
        if self.built:
            return
        super().build(variables)
        if self.friction < 1:
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Apply a step to one variable."""
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
        # Stateless, so the noise is the same on all replicas and after an interruption.
        seed = fold_in(as_seed(self.seed), tf.cast(self._iterations, tf.int32), index)
        return scale * noise.normal(variable.shape, seed, rate.dtype)

    def get_config(self) -> dict:
        """Return the constructor's arguments as plain JSON."""
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
        """Create the optimizer from its configuration."""
        if isinstance(config.get("temperature"), dict):
            schedule = keras.saving.deserialize_keras_object(config["temperature"], custom_objects)
            config = {**config, "temperature": schedule}
        return super().from_config(config, custom_objects)


@keras.saving.register_keras_serializable("tfp_bayes")
class SGLD(SGHMC):
    """Stochastic gradient Langevin dynamics: `SGHMC` with friction 1.

    A step is w <- w - eta g + sqrt(2 eta T / N) xi. This is the simplest sampler, and it explores
    more slowly than `SGHMC`.

    Args:
        learning_rate: See `SGHMC`.
        num_train: See `SGHMC`.
        temperature: See `SGHMC`.
        seed: See `SGHMC`.
        name: See `SGHMC`.
        **kwargs: See `SGHMC`.

    Raises:
        ValueError: See `SGHMC`.

    Reference:
        Welling and Teh 2011, "Bayesian Learning via Stochastic Gradient Langevin Dynamics",
        equation 4, where the step size is 2 eta / N.

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
    """A learning rate that falls along a cosine in each cycle.

    In step k of a cycle of C steps it is rate / 2 (1 + cos(pi k / C)), but never below a hundredth
    of the initial rate. Near 0 the chain would stop moving, and its last snapshots would be equal.

    Args:
        learning_rate: Learning rate of the first step of each cycle.
        cycle_steps: Number of steps in a cycle, C.

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
        """Return the learning rate of a step, counted from 0."""
        k = tf.cast(_step_of_cycle(step, self.cycle_steps), tf.float64) / self.cycle_steps
        share = (1 + tf.cos(math.pi * k)) / 2
        return tf.cast(self.learning_rate * tf.maximum(share, 0.01), tf.float32)

    def get_config(self) -> dict:
        """Return the constructor's arguments as plain JSON."""
        return {"learning_rate": self.learning_rate, "cycle_steps": self.cycle_steps}


@keras.saving.register_keras_serializable("tfp_bayes")
class LateNoise(LearningRateSchedule):
    """A temperature that is 0 in the exploration stage of each cycle, and T in the sampling stage.

    Args:
        temperature: Temperature T of the sampling stage.
        cycle_steps: Number of steps in a cycle.
        noise_steps: Number of steps with noise at the end of each cycle.

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
        """Return the temperature of a step, counted from 0."""
        is_late = _step_of_cycle(step, self.cycle_steps) >= self.cycle_steps - self.noise_steps
        return tf.where(is_late, tf.constant(self.temperature, tf.float32), 0.0)

    def get_config(self) -> dict:
        """Return the constructor's arguments as plain JSON."""
        return {
            "temperature": self.temperature,
            "cycle_steps": self.cycle_steps,
            "noise_steps": self.noise_steps,
        }


def _step_of_cycle(step, cycle_steps: int) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(step), tf.int64) % cycle_steps
