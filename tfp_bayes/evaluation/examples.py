"""Reading of examples, once for all models, so that all see the same rows in the same order."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import count_rows, labelled_batches
from tfp_bayes.datasets import Dataset
from tfp_bayes.evaluation.sources import Source
from tfp_bayes.prediction import Prediction
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE

# Rows per call of a predictor: large enough that its checks are rare, small enough for progress.
ROWS_AT_ONCE = 4 * DEFAULT_BATCH_SIZE

# Called with the argument being predicted, the rows done, and their total if it is known.
OnRows = Callable[[str, int, int | None], None]


def labelled(data: Any, split: str, name: str) -> tuple[Any, Any]:
    """Returns inputs and labels; labels are None for a `tf.data.Dataset` or `PyDataset` of pairs.

    Args:
        data: Examples in any form that `evaluate` takes.
        split: The part of a `Dataset` to use, "test" or "validation".
        name: Name of the argument, for errors.
    """
    if isinstance(data, Dataset):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        if x is None or len(x) == 0 or len(y) != len(x):
            raise ValueError(
                f"Expected a data set with labeled {split} examples for `{name}`. Received: none."
                f" Hint: pass {name}=(x, y) with held-out examples."
            )
        return x, y
    if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return data, None
    if isinstance(data, tuple) and len(data) == 2:
        return data
    raise ValueError(
        f"Expected (x, y), a Dataset, or a tf.data.Dataset or PyDataset of such pairs for `{name}`."
        f" Received: {_described(data)}. Hint: sample weights are not supported; pass several "
        "input arrays as a list or a dictionary."
    )


def unlabelled(ood: Any) -> Any:
    """Returns the inputs of out-of-distribution examples, without labels."""
    if isinstance(ood, Dataset):
        return ood.x_test if len(ood.x_test) else ood.x_train
    if isinstance(ood, tuple):
        if len(ood) != 2:
            raise ValueError(
                f"Expected inputs, or (x, y), for `ood`. Received: {_described(ood)}. "
                "Hint: pass several input arrays as a list or a dictionary."
            )
        return ood[0]
    return ood


def check_same_kind(x: Any, other: Any, name: str) -> None:
    """Raises ValueError if arrays differ in kind, as integer pixels and floats in [0, 1] do."""
    pairs = [keras.tree.flatten(each) for each in (x, other)]
    for a, b in zip(*pairs):
        kinds = [getattr(np.dtype(e.dtype), "kind", "O") for e in (a, b) if _is_array(e)]
        if len(set(kinds)) == 2:
            raise ValueError(
                f"Expected inputs of kind {a.dtype}, as in `data`, for `{name}`. Received: "
                f"{b.dtype}. Hint: preprocess both in the same way; otherwise results reflect the "
                "difference in scale."
            )


def predict(
    sources: list[Source],
    x: Any,
    y: Any,
    seed: int,
    what: str,
    on_rows: OnRows | None,
    needs_labels: bool = True,
) -> tuple[np.ndarray | None, list[Prediction]]:
    """Returns the labels and the prediction of each model.

    Args:
        sources: The models.
        x: Inputs, or a dataset.
        y: Labels, or None.
        seed: Seed of the posterior samples.
        what: Name of the argument that holds the examples, for errors and progress.
        on_rows: Function called after each batch, or None.
        needs_labels: Whether to refuse examples without labels.

    Raises:
        ValueError: If there are no examples, labels are missing, sample weights are given, or
            inputs are not finite (the message lists their rows).
    """
    total = None if isinstance(x, tf.data.Dataset | keras.utils.PyDataset) else count_rows(x)
    labels, done = [], 0
    for inputs, targets, weights in _batches(x, y):
        if weights is not None:
            raise ValueError(
                f"Expected examples without sample weights for `{what}`. Received: weights. "
                "Hint: drop the weights; repeat examples that should count more."
            )
        if needs_labels:
            if targets is None or keras.tree.is_nested(targets):
                raise ValueError(
                    f"Expected one array of labels for `{what}`. Received: "
                    f"{'none' if targets is None else 'several'}. Hint: pass a dataset of (x, y)."
                )
            labels.append(np.asarray(targets))
        for source in sources:
            source.add(inputs, seed)
        done += len(keras.tree.flatten(inputs)[0])
        if on_rows is not None:
            on_rows(what, done, total)
    if done == 0:
        raise ValueError(
            f"Expected at least one example for `{what}`. Received: none. "
            "Hint: check the filters of the dataset, or its path."
        )
    predictions = [source.take() for source in sources]
    for source, p in zip(sources, predictions):
        _check_finite(p, source.name, what)
    return (np.concatenate(labels) if needs_labels else None), predictions


def _batches(x: Any, y: Any) -> Iterable[tuple]:
    if not isinstance(x, tf.data.Dataset | keras.utils.PyDataset) and count_rows(x) == 0:
        return ()
    return labelled_batches(x, y, None, ROWS_AT_ONCE)


def _check_finite(p: Prediction, model: str, what: str) -> None:
    rows = p.mean.reshape(len(p), -1)
    wrong = np.flatnonzero(~np.isfinite(rows).all(1) | ~np.isfinite(p.variance).all(1))
    if wrong.size:
        raise ValueError(
            f"Expected finite inputs for `{what}`. Received: {wrong.size} of {len(p)} examples "
            f"for which {model!r} predicts NaN, rows {wrong[:5].tolist()}"
            + ("" if wrong.size <= 5 else " and others")
            + ". Hint: drop those rows from x and y, or correct them."
        )


def as_labels(y: np.ndarray, p: Prediction, what: str) -> np.ndarray:
    """Returns class numbers (N,) or real targets (N, D) that match a prediction.

    Raises:
        ValueError: If labels do not match, or the prediction is of several labels per example.
    """
    if p.likelihood == "bernoulli" and p.mean.shape[1] > 1:
        raise ValueError(
            "Expected a model with one label per example. Received: likelihood='bernoulli' "
            f"with {p.mean.shape[1]} outputs. Hint: evaluate one output at a time, "
            "keras.Model(model.input, model.output[:, k:k + 1])."
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        wrong = np.flatnonzero(~np.isfinite(y.reshape(len(y), -1)).all(1))
        raise ValueError(
            f"Expected finite labels for `{what}`. Received: NaN or infinity in {wrong.size} of "
            f"{len(y)}, rows {wrong[:5].tolist()}. Hint: drop examples without a label."
        )
    num_outputs = p.mean.shape[1]
    if p.likelihood != "normal":
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        elif y.ndim == 2 and y.shape[1] == num_outputs and _is_one_hot(y):
            y = y.argmax(-1)
        if y.dtype.kind == "f" and (y == np.round(y)).all():
            y = y.astype("int64")
    elif y.ndim == 1 and num_outputs > 1:
        raise ValueError(
            f"Expected real targets (N, {num_outputs}) for `{what}`. Received: labels of shape "
            f"{y.shape}. Hint: give one target per output."
        )
    targets = get_likelihood(p.likelihood).targets(p.mean, y)
    checked = targets.check(y, len(p))
    return targets.as_outputs(checked) if p.likelihood == "normal" else checked.astype("int64")


def _is_one_hot(y: np.ndarray) -> bool:
    return bool(np.isin(y, (0, 1)).all() and (y.sum(-1) == 1).all())


def _is_array(each: Any) -> bool:
    return hasattr(each, "dtype") and hasattr(each, "shape")


def _described(data: Any) -> str:
    return f"a tuple of {len(data)}" if isinstance(data, tuple) else type(data).__name__
