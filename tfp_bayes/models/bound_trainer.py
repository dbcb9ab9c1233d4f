"""Compilation and training steps of a Bayesian model, on the evidence bound."""

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfp_bayes._plumbing.fresh import build_optimizer
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
    from keras import Model as _Base  # the class that the mixin extends
else:
    _Base = object

TRAINING_ONLY = ("nll", "kl", "penalty", "function_prior")  # parts of the loss of `fit`


class BoundTrainer(_Base):
    """A mixin of `BayesianModel` that computes the loss, and alone weights the prior in it.

    The model provides a `kl_weight`, a `predictor`, a `likelihood`, and trackers of the parts of
    the loss.
    """

    # An `EarlierData` while `Laplace.fit` trains under the posterior of earlier data.
    earlier_data: Any = None
    function_prior: dict | None = None  # settings of the prior given to `compile`
    _function_term: FunctionTerm | None = None
    _has_penalty = False  # of the step that was traced last

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        *args,
        function_prior: FunctionSpacePrior | None = None,
        **kwargs,
    ) -> None:
        """Configure training as `keras.Model.compile` does.

        Args:
            optimizer: As in Keras.
            loss: Negative log likelihood under `likelihood`: one of Keras' cross-entropies,
                `tfp_bayes.losses.NormalNLL`, or your own loss, whose values are taken as the NLL
                of observations. Losses of several outputs are given as in Keras; `loss_weights`
                multiply the log likelihoods. Label smoothing and `NormalNLL(beta)` affect
                training only: `nll` and `evaluate` do not include them.
            *args: As in Keras.
            function_prior: A prior on the outputs at context inputs. A saved file does not
                contain its data. To train a loaded model further, compile it again.
            **kwargs: As in Keras. Metrics receive the locations of "normal" outputs, unless their
                class has `takes_parameters = True`.

        Raises:
            ValueError: If a Keras loss is not that NLL (a loss of logits, another loss, a sum).
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
        """Return the arguments of `compile` as plain JSON, without the data of a function prior."""
        known = {"function_prior": dict(self.function_prior)} if self.function_prior else {}
        return {**super().get_compile_config(), **known}

    def compile_from_config(self, config: dict) -> None:
        """Compile a loaded model as before, see `keras.Model.compile_from_config`."""
        if type(self).compile is not BoundTrainer.compile:
            super().compile_from_config(config)
            return
        arguments = {name: value for name, value in config.items() if name != "function_prior"}
        self.compile(**keras.saving.deserialize_keras_object(arguments))
        self.function_prior = config.get("function_prior")  # `compute_loss` needs its data too
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def __call__(self, *args, **kwargs):
        """Call the model as Keras does, and attach the prior terms of its layers to the outputs."""
        if current_call() is not None and not are_collected():
            # The outer model is not a BayesianModel, so each layer weights the term it states.
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
        """Return KL(q || prior), a float32 scalar in nats, summed over all weights.

        The sum includes the term of `prior_scale` up to a constant, see `prior_penalty`. See also
        the function `kl_divergence`.
        """
        return kl_divergence(self)

    def prior_penalty(self) -> tf.Tensor:
        """Return the prior term of `prior_scale`, float32 in nats, or 0 if the prior is flat.

        See `gaussian_penalty`. Kernels of variational layers have priors of their own and are not
        included. For weights that `Laplace.fit` trains under the posterior of earlier data, that
        posterior takes the place of `prior_scale`.
        """
        if self.earlier_data is None:
            return gaussian_penalty(self)
        others = gaussian_penalty(self, without=self.earlier_data.covered)
        return others + self.earlier_data.penalty()

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training: bool = True
    ) -> tf.Tensor:
        """Return the loss of a batch, divided by the number of replicas as in Keras.

        Args:
            x: Inputs, not used.
            y: Targets.
            y_pred: Outputs of this model, called with training=True during training.
            sample_weight: Weights (N,) or (N, ...), as in Keras.
            training: Whether to return the negative evidence bound per observation, see
                `negative_bound`. Otherwise the loss is the mean NLL per observation.

        Raises:
            ValueError: If the model was compiled without a loss, the weight of its prior was never
                set, or the context of its function prior is missing.
        """
        if self._data_term is None:
            raise ValueError(
                "Expected a model compiled with a loss, the negative log likelihood of the "
                "targets. Received: a model without a loss. "
                'Hint: model.compile("adam", "sparse_categorical_crossentropy").'
            )
        data = self._data_term(y, y_pred, sample_weight, training)
        loss = data.nll
        if training:
            self.nll_tracker.update_state(data.nll, sample_weight=data.count)
            penalties = self.losses  # before `_priors`, whose calls on context inputs change them
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
        """Return the terms of the negative log prior in nats, and update their trackers."""
        priors = []
        if self._has_kl:
            priors.append(layers_divergence(self, y_pred) + self.prior_penalty())
            self.kl_tracker.update_state(priors[-1])
        if self.function_prior is not None:
            if self._function_term is None:
                raise ValueError(
                    "Expected the context of the function prior that the model was compiled with. "
                    "Received: a loaded model, whose file does not contain the context. Hint: "
                    "compile the model again, with function_prior=FunctionSpacePrior(context, ...) "
                    "or without a function prior."
                )
            priors.append(self._function_term(self.optimizer.iterations))
            self.function_prior_tracker.update_state(priors[-1])
        return priors

    def make_train_function(self, force: bool = False) -> None:
        """Make the function of a training step as Keras does, with the optimizer built before.

        Otherwise, Keras traces the step twice, because its first trace creates variables.
        """
        if self.built and self.optimizer is not None:
            build_optimizer(self)
        super().make_train_function(force)

    def train_step(self, data) -> dict:
        """Take a step as Keras does, and report the parts of the loss and learned dropout rates."""
        results = self.shown_results(super().train_step(data), training=True)
        return {**results, **learned_rates(self)}

    def shown_results(self, results: dict, training: bool) -> dict:
        """Return the results of a step without the parts of the loss that it does not have."""
        absent = list(TRAINING_ONLY)
        if training:
            parts = (True, self._has_kl, self._has_penalty, self.function_prior)
            absent = [name for name, part in zip(TRAINING_ONLY, parts, strict=True) if not part]
        return {name: value for name, value in results.items() if name not in absent}

    def get_metrics_result(self) -> dict:
        """Return the values of metrics as Keras does, without parts of the loss not yet computed.

        If these have the names that a step returns, Keras uses them as the results of the epoch,
        over all replicas together.
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
        """Update metrics as Keras does, with the locations in the place of "normal" outputs."""
        names = self.predictor.likelihood_names(len(keras.tree.flatten(y_pred)))
        views = [of_location if name == "normal" else None for name in names]
        view_metrics(self, y, y_pred, views)
        return super().compute_metrics(x, y, y_pred, sample_weight)
