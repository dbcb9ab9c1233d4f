"""Conformal sets, intervals and selective labels as graphs, for served models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.seeds import as_seed
from tfp_bayes.prediction import Predictor
from tfp_bayes.uncertainty import Conformal, SelectiveClassifier
from tfp_bayes.uncertainty.conformal import GOLDEN, MIX_1, MIX_2

Endpoint = Callable[[Any], dict[str, tf.Tensor]]


def decision_endpoint(
    predictor: Predictor, decision: Conformal | SelectiveClassifier
) -> tuple[str, Endpoint]:
    """Return the signature name of a fitted decision, and the function that builds its graph.

    Args:
        predictor: The predictor that is exported.
        decision: A decision fitted with this predictor, or with the `BayesianModel` that it
            belongs to.

    Raises:
        ValueError: If the decision is not fitted, belongs to another predictor, was fitted at other
            weights, or needs all samples.
    """
    owner = decision.predictor
    if owner is not predictor and getattr(owner, "predictor", None) is not predictor:
        raise ValueError(
            "Expected decisions of the predictor that is exported. Received: "
            f"{type(decision).__name__} of another {type(owner).__name__}. Hint: "
            "Conformal.load(path, model) loads a saved decision for this model."
        )
    decision.check_usable()
    if isinstance(decision, SelectiveClassifier):
        return "decide", _selective(predictor, decision)
    if decision.method == "cqr":
        raise ValueError(
            "Expected a method that needs no quantiles of samples. Received: method='cqr'. "
            "Hint: Conformal(model, 'normalized') can be served."
        )
    if decision.method == "normalized":
        return "intervals", _intervals(predictor, decision)
    return "sets", _sets(predictor, decision)


def _measures(predictor: Predictor, decision: Any) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Return a function that builds the graph of the decision's `predict_uncertainty`."""
    number = decision.settings["num_samples"]
    number = getattr(decision.predictor, "num_samples", None) if number is None else number
    number = predictor.resolve_num_samples(number)
    seed = as_seed(decision.settings["seed"])
    return lambda inputs: predictor.stream(inputs, number, tf.constant(seed))


def _classes(predictor: Predictor, measures: dict[str, tf.Tensor]) -> tf.Tensor:
    mean = tf.cast(measures["mean"], tf.float64)
    is_sigmoid = predictor.likelihood_names(1) == ["bernoulli"]
    return tf.concat([1 - mean, mean], axis=-1) if is_sigmoid else mean


def _sets(predictor: Predictor, conformal: Conformal) -> Endpoint:
    measure, quantile = _measures(predictor, conformal), tf.constant(conformal.quantile)
    penalty, free_ranks = conformal.penalty

    def sets(inputs: Any) -> dict[str, tf.Tensor]:
        probs = _classes(predictor, measure(inputs))
        if conformal.method == "lac":
            scores = 1 - probs
        else:
            u = row_uniforms(probs, conformal.settings["seed"])
            scores = aps_scores(probs, u, penalty, free_ranks)
        members = scores <= quantile
        if not conformal.settings["allow_empty"]:
            likeliest = tf.one_hot(tf.argmax(probs, axis=1), tf.shape(probs)[1], True, False)
            members |= likeliest & ~tf.reduce_any(members, axis=1, keepdims=True)
        # Sets of inputs that are not finite contain all classes.
        unknown = tf.reduce_any(tf.math.is_nan(probs), axis=1, keepdims=True)
        return {"sets": members | unknown}

    return sets


def _intervals(predictor: Predictor, conformal: Conformal) -> Endpoint:
    measure, quantile = _measures(predictor, conformal), tf.constant(conformal.quantile)

    def intervals(inputs: Any) -> dict[str, tf.Tensor]:
        measures = measure(inputs)
        loc = tf.cast(measures["mean"], tf.float64)
        variance = measures["epistemic_variance"] + measures["aleatoric_variance"]
        half = quantile * tf.cast(tf.sqrt(variance), tf.float64)
        return {"lower": loc - half, "upper": loc + half}

    return intervals


def _selective(predictor: Predictor, selective: SelectiveClassifier) -> Endpoint:
    measure, score = _measures(predictor, selective), selective.settings["score"]

    def decide(inputs: Any) -> dict[str, tf.Tensor]:
        measures = measure(inputs)
        probs = _classes(predictor, measures)
        known = tf.reduce_all(tf.math.is_finite(probs), axis=1)
        if score == "confidence":
            uncertainty = 1 - tf.reduce_max(probs, axis=1)
        else:
            uncertainty = tf.cast(measures[score], tf.float64)
        uncertainty = tf.where(known, uncertainty, tf.constant(np.inf, tf.float64))
        probs = tf.where(known[:, None], probs, tf.zeros_like(probs))
        return {
            "labels": tf.argmax(probs, axis=1),
            "trusted": uncertainty < selective.threshold,
            "uncertainty": uncertainty,
        }

    return decide


def aps_scores(probs: tf.Tensor, u: tf.Tensor, penalty: float, free_ranks: int) -> tf.Tensor:
    """Build the graph of `uncertainty.aps_scores`."""
    order = tf.argsort(-probs, axis=1, stable=True)
    likeliest_first = tf.gather(probs, order, batch_dims=1)
    scores = tf.cumsum(likeliest_first, axis=1) - u[:, None] * likeliest_first
    ranks = tf.argsort(order, axis=1)
    # The penalty is added after `gather`, because TensorFlow could reorder a sum of three terms
    # and change the last bit.
    excess = tf.cast(tf.maximum(ranks + 1 - free_ranks, 0), tf.float64)
    return tf.gather(scores, ranks, batch_dims=1) + penalty * excess


def row_uniforms(probs: tf.Tensor, seed: int) -> tf.Tensor:
    """Build the graph of `uncertainty.row_uniforms`, bit for bit."""
    bits = tf.bitcast(tf.where(probs == 0, tf.zeros_like(probs), probs), tf.uint64)
    columns = tf.transpose(bits)
    state = _mix(tf.fill([tf.shape(probs)[0]], tf.constant(seed % 2**64, tf.uint64)))
    state = tf.foldl(
        lambda state, column: _mix(tf.bitwise.bitwise_xor(state, column)), columns, state
    )
    high = tf.bitwise.right_shift(state, tf.constant(11, tf.uint64))
    return tf.cast(high, tf.float64) * 2.0**-53


def _mix(state: tf.Tensor) -> tf.Tensor:
    def shifted(state: tf.Tensor, by: int) -> tf.Tensor:
        moved = tf.bitwise.right_shift(state, tf.constant(by, tf.uint64))
        return tf.bitwise.bitwise_xor(state, moved)

    state = state + tf.constant(GOLDEN, tf.uint64)
    state = shifted(state, 30) * tf.constant(MIX_1, tf.uint64)
    state = shifted(state, 27) * tf.constant(MIX_2, tf.uint64)
    return shifted(state, 31)
