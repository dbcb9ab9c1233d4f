"""Pictures of an evaluation, drawn by `plots`, one figure each."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfp_bayes.datasets import ImageFiles
from tfp_bayes.evaluation.scored import class_probabilities, uncertainty_scores
from tfp_bayes.evaluation.table import SCORES
from tfp_bayes.prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_IMAGES = 8  # of the most certain images, and as many of the most uncertain


class Pictured(NamedTuple):
    """The data that pictures are drawn from.

    Attributes:
        labels: (N,) class numbers or (N, D) targets.
        predictions: Prediction of each model by name.
        ood_predictions: Prediction of the out-of-distribution examples of each model by name; empty
            if there are none.
        images: (N, H, W, C) images, or None if the inputs are not images in memory or in files.
        class_names: K names, or None.
        num_samples: Number of posterior samples S of each model by name.
    """

    labels: np.ndarray
    predictions: Mapping[str, Prediction]
    ood_predictions: Mapping[str, Prediction]
    images: Any
    class_names: tuple[str, ...] | None
    num_samples: Mapping[str, int]


class Picture(NamedTuple):
    """A figure with a caption and the name of its model, "" if it shows all models."""

    model: str
    caption: str
    figure: "Figure"


def images_of(x: Any, p: Prediction) -> Any:
    """Returns the inputs if they are images with predicted classes, else None."""
    is_array = isinstance(x, np.ndarray) and x.ndim == 4 and x.shape[-1] in (1, 3)
    if p.likelihood == "normal" or not (is_array or isinstance(x, ImageFiles)):
        return None
    return x


def pictures(pictured: Pictured) -> Iterator[Picture]:
    """Yields every picture that the predictions allow, starting with those of all models."""
    first = next(iter(pictured.predictions.values()))
    if first.likelihood == "normal":
        yield _quantiles(pictured)
    else:
        yield from _ranking(pictured)
    for name in pictured.ood_predictions:
        yield from _histograms(pictured, name)
    if first.likelihood != "normal":
        for name in pictured.predictions:
            yield from _of_one(pictured, name)


def _figure(width: float = 4.6, height: float = 4.2) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _ranking(pictured: Pictured) -> Iterator[Picture]:
    from tfp_bayes import plots

    drawn = {
        "Accuracy on the most certain examples, by 1 - max p": plots.retention_curve,
        "Error rate on the most certain examples (area: AURC)": plots.risk_coverage_curve,
    }
    for caption, draw in drawn.items():
        figure, ax = _figure()
        for name, p in pictured.predictions.items():
            probs = class_probabilities(p)
            draw(probs.argmax(-1) != pictured.labels, 1 - probs.max(-1), ax=ax, label=_plain(name))
        yield Picture("", caption, figure)


def _quantiles(pictured: Pictured) -> Picture:
    """Draws the share of targets below each predicted quantile."""
    from tfp_bayes import metrics
    from tfp_bayes.metrics.regression import QUANTILES, shares_below
    from tfp_bayes.plots.canvas import legend_above, next_style

    figure, ax = _figure()
    ax.plot([0, 1], [0, 1], color="gray", lw=0.8, ls="--")
    for name, p in pictured.predictions.items():
        pit = metrics.normal_pit(pictured.labels, p.mean, p.std).ravel()
        shares, style = shares_below(pit), next_style(ax)
        ax.plot(QUANTILES, shares, label=_plain(name), markevery=[49], markersize=4, **style)
    ax.set(xlabel="predicted quantile", ylabel="share of targets below", xlim=(0, 1), ylim=(0, 1))
    legend_above(ax)
    return Picture("", "Calibration of quantiles (diagonal: calibrated)", figure)


def _histograms(pictured: Pictured, name: str) -> Iterator[Picture]:
    from tfp_bayes import plots

    pair = pictured.predictions[name], pictured.ood_predictions[name]
    familiar, others = (uncertainty_scores(p, pictured.num_samples[name]) for p in pair)
    for score, values in familiar.items():
        figure, ax = _figure()
        plots.score_histograms({"data": values, "OOD": others[score]}, ax=ax)
        in_nats = "" if score == "max_probability" else " (nats)"
        ax.set_xlabel(SCORES[score] + in_nats)
        yield Picture(name, f"Out-of-distribution examples by {SCORES[score]}", figure)


def _of_one(pictured: Pictured, name: str) -> Iterator[Picture]:
    from tfp_bayes import plots

    p, labels = pictured.predictions[name], pictured.labels
    probs = class_probabilities(p)
    figure, ax = _figure()
    plots.reliability_diagram(labels, probs, ax=ax)
    yield Picture(name, "Accuracy against confidence", figure)
    figure, ax = _figure()
    plots.confidence_histogram(labels, probs, ax=ax)
    yield Picture(name, "Confidences", figure)
    if pictured.num_samples[name] > 1:
        figure, ax = _figure()
        plots.entropy_against_information(
            p.predictive_entropy, p.mutual_information, probs.argmax(-1) != labels, ax=ax
        )
        yield Picture(name, "Total against epistemic uncertainty", figure)
    if pictured.images is not None:
        yield _images(pictured, name, probs)


def _images(pictured: Pictured, name: str, probs: np.ndarray) -> Picture:
    from tfp_bayes import plots

    entropy = pictured.predictions[name].predictive_entropy
    order = np.argsort(entropy, kind="stable")
    count = min(_NUM_IMAGES, len(order))
    rows = np.unique(np.concatenate([order[:count], np.argsort(-entropy, kind="stable")[:count]]))
    named = pictured.class_names is not None
    figure, ax = _figure(1.25 * count + 0.6, 4.0 if named else 3.2)
    plots.certain_and_uncertain_images(
        _shown(np.asarray(pictured.images[rows])),
        probs[rows],
        entropy[rows],
        pictured.labels[rows],
        ax=ax,
        num_images=count,
        class_names=pictured.class_names if named else None,
    )
    return Picture(
        name, "Most certain and most uncertain images by entropy (nats); errors framed", figure
    )


def _shown(images: np.ndarray) -> np.ndarray:
    """Returns images as uint8 or in [0, 1]; other ranges are rescaled to [0, 1]."""
    if images.dtype == np.uint8 or (images.min() >= 0 and images.max() <= 1):
        return images
    images = images.astype("float64")
    return (images - images.min()) / max(images.max() - images.min(), 1e-12)


def _plain(name: str) -> str:
    """Returns text that Matplotlib shows literally: not as a formula, and not hidden in legends."""
    return name.replace("$", r"\$").lstrip("_") or name
