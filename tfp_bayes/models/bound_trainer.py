"""Compilation and training steps of a Bayesian model on the evidence bound."""

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import (
    compiled_loss,
    current_call,
    is_training_call,
    set_compiled_loss,
    view_metrics,
)
from tfp_bayes.layers import variational_layers
from tfp_bayes.layers.prior_term import are_collected, collected_prior_terms, state_prior_term
from tfp_bayes.models.dropout_prior import gaussian_penalty, has_prior_scale, learned_rates
from tfp_bayes.models.function_prior import FunctionSpacePrior, FunctionTerm
from tfp_bayes.models.kl_weight import kl_divergence
from tfp_bayes.models.objective import (
    DataTerms,
    attach_prior_terms,
    layers_divergence,
    negative_bound,
    num_replicas,
)
from tfp_bayes.models.seen_outputs import of_location
from tfp_bayes.models.stated_likelihood import check_compiled

if TYPE_CHECKING:
    from keras import Model as _Base  # what the mixin is mixed into
else:
    _Base = object

TRAINING_ONLY = ("nll", "kl", "penalty", "function_prior")  # parts of the loss of `fit`


class BoundTrainer(_Base):
    """A mixin of `BayesianModel`: its loss, which the model alone weights.

    The model has a `kl_weight`, a `predictor`, a `likelihood`, and trackers of the loss's parts.
    """

    # While `Laplace.fit` trains under the posterior of earlier data: that, as an `EarlierData`.
    earlier_data: Any = None
    function_prior: dict | None = None  # settings of the one that it was compiled with
    _function_term: FunctionTerm | None = None
    _has_penalty = False  # in the step that was traced last

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        *args,
        function_prior: FunctionSpacePrior | None = None,
        **kwargs,
    ) -> None:
        """Configures training as `keras.Model.compile`.

        Args:
            optimizer: As in Keras.
            loss: The negative log likelihood under `likelihood`: one of Keras' cross-entropies,
                `tfp_bayes.losses.NormalNLL`, or a loss of your own, whose values are taken as
                the NLL of observations. With several outputs as in Keras; `loss_weights` multiply
                the log likelihoods. Label smoothing and `NormalNLL(beta)` shape training only:
                `nll` and `evaluate` are without.
            *args: As in Keras.
            function_prior: A prior of the outputs at context inputs. A saved file does not hold
                its data: to train a loaded model further, compile it again.
            **kwargs: As in Keras. Metrics see the locations of "normal" outputs, unless their
                class has `takes_parameters = True`.

        Raises:
            ValueError: If a loss of Keras is not that NLL (logits, another loss, a sum).
        """
        likelihoods = keras.tree.flatten(self.likelihood)
        check_compiled(loss, likelihoods, self.output_names)
        term = None if function_prior is None else FunctionTerm(function_prior, self)
        super().compile(optimizer, loss, *args, **kwargs)
        self._function_term = term
        self.function_prior = None if term is None else term.config
        self._data_term = None
        if compiled_loss(self) is not None:
            self._data_term = DataTerms(compiled_loss(self), likelihoods)
            set_compiled_loss(self, self._data_term.losses)

    def get_compile_config(self) -> dict | None:
        """Returns the arguments of `compile`, plain JSON; of a function prior, without data."""
        known = {"function_prior": dict(self.function_prior)} if self.function_prior else {}
        return {**super().get_compile_config(), **known}

    def compile_from_config(self, config: dict) -> None:
        """Compiles a loaded model as it was, see `keras.Model.compile_from_config`."""
        if type(self).compile is not BoundTrainer.compile:
            super().compile_from_config(config)
            return
        arguments = {name: value for name, value in config.items() if name != "function_prior"}
        self.compile(**keras.saving.deserialize_keras_object(arguments))
        self.function_prior = config.get("function_prior")  # without its data, see `compute_loss`
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def __call__(self, *args, **kwargs):
        """Calls the model as Keras does; the prior terms of its layers go with the outputs."""
        if current_call() is not None and not are_collected():
            # Inside a model that is no BayesianModel, and weights terms where they are stated.
            outputs = super().__call__(*args, **kwargs)
            if self.prior_scale is not None and is_training_call():
                state_prior_term(self, lambda: gaussian_penalty(self, owner=self))
            return outputs
        with collected_prior_terms() as terms:
            outputs = super().__call__(*args, **kwargs)
        if terms:
            attach_prior_terms(outputs, terms)
        return outputs

    @property
    def _has_kl(self) -> bool:
        has_earlier = self.earlier_data is not None
        return has_earlier or has_prior_scale(self) or bool(variational_layers(self))

    @property
    def _has_prior(self) -> bool:
        return self._has_kl or self.function_prior is not None

    def kl_divergence(self) -> tf.Tensor:
        """Returns KL(q || prior), float32 scalar in nats, summed over all weights.

        See `kl_divergence`; `prior_scale` counts, up to a constant, as `prior_penalty` says.
        """
        return kl_divergence(self)

    def prior_penalty(self) -> tf.Tensor:
        """Returns the prior term of kernels under `prior_scale`, float32 in nats; 0 if flat.

        See `gaussian_penalty`. Kernels of variational layers have priors of their own, and so have
        weights that `Laplace.fit` trains under the posterior of earlier data.
        """
        if self.earlier_data is None:
            return gaussian_penalty(self)
        others = gaussian_penalty(self, without=self.earlier_data.covered)
        return others + self.earlier_data.penalty()

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training: bool = True
    ) -> tf.Tensor:
        """Returns the loss of a batch, divided by the number of replicas, as Keras' is.

        Args:
            x: Inputs; not used.
            y: Targets.
            y_pred: Outputs of this model, called with training=True in training.
            sample_weight: (N,) or (N, ...), as in Keras.
            training: Whether to return the negative evidence bound per observation, see
                `negative_bound`, instead of the mean NLL of an observation.

        Raises:
            ValueError: If the model was compiled without a loss, its prior was never weighted, or
                the context of its function prior is not there.
        """
        if self._data_term is None:
            raise ValueError(
                "Expected a compiled loss, which says how likely the targets are. Received: a "
                'model without. Hint: model.compile("adam", "sparse_categorical_crossentropy").'
            )
        data = self._data_term(y, y_pred, sample_weight, training)
        loss = data.nll
        if training:
            self.nll_tracker.update_state(data.nll, sample_weight=data.count)
            penalties = self.losses  # which a call on context inputs would change
            num_rows = tf.shape(keras.tree.flatten(y_pred)[0])[0]
            priors = self._priors(y_pred)
            bound = negative_bound(data, priors, penalties, self.kl_weight, num_rows)
            self._has_penalty = bound.penalty is not None
            if self._has_penalty:
                self.penalty_tracker.update_state(bound.penalty)
            loss = bound.loss
        loss /= num_replicas()
        loss.num_observations = data.count
        return loss

    def _priors(self, y_pred) -> list[tf.Tensor]:
        """Returns the terms of the negative log prior in nats, and shows them."""
        priors = []
        if self._has_kl:
            priors.append(layers_divergence(self, y_pred) + self.prior_penalty())
            self.kl_tracker.update_state(priors[-1])
        if self.function_prior is not None:
            if self._function_term is None:
                raise ValueError(
                    "Expected the context of the function prior that the model was compiled with. "
                    "Received: a loaded model, whose file does not hold it. Hint: compile it again "
                    "with function_prior=FunctionSpacePrior(context, ...), or without."
                )
            priors.append(self._function_term(self.optimizer.iterations))
            self.function_prior_tracker.update_state(priors[-1])
        return priors

    def train_step(self, data) -> dict:
        """Takes a step as Keras does; shows the parts of the loss and learned dropout rates."""
        results = self.shown_results(super().train_step(data), training=True)
        return {**results, **learned_rates(self)}

    def shown_results(self, results: dict, training: bool) -> dict:
        """Returns the results of a step, without parts of the loss that the step does not have."""
        absent = list(TRAINING_ONLY)
        if training:
            parts = (True, self._has_kl, self._has_penalty, self.function_prior)
            absent = [name for name, part in zip(TRAINING_ONLY, parts, strict=True) if not part]
        return {name: value for name, value in results.items() if name not in absent}

    def get_metrics_result(self) -> dict:
        """Returns the values of metrics as Keras does, without parts of the loss not seen yet.

        Keras takes these for the results of an epoch, which are those of all replicas together,
        if they have the names of a step's.
        """
        results = super().get_metrics_result()
        if tf.inside_function():
            return results
        parts = (
            self.nll_tracker,
            self.kl_tracker,
            self.penalty_tracker,
            self.function_prior_tracker,
        )
        absent = [each.name for each in parts if not tf.convert_to_tensor(each.count)]
        results = {name: value for name, value in results.items() if name not in absent}
        return results if "nll" in absent else {**results, **learned_rates(self)}

    def compute_metrics(self, x, y, y_pred, sample_weight=None) -> dict:
        """Updates metrics as Keras does; they see the locations of "normal" outputs."""
        names = self.predictor.likelihood_names(len(keras.tree.flatten(y_pred)))
        views = [of_location if name == "normal" else None for name in names]
        view_metrics(self, y, y_pred, views)
        return super().compute_metrics(x, y, y_pred, sample_weight)
