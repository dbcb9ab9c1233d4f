"""The artists of each plot hold the numbers that NumPy computes."""

import keras
import matplotlib
import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve

import tfp_bayes
from tfp_bayes import plots
from tfp_bayes.plots.canvas import COLORS


def axes(**size):
    return Figure(**size).subplots()


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def heights(stairs):
    return stairs.get_data().values


@pytest.fixture(scope="module")
def guesses():
    """Calibrated probabilities (N, K) and labels drawn from them."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(3, 0.5), 2000)
    y = (rng.random((2000, 1)) > probs.cumsum(1)).sum(1)
    return np.minimum(y, 2), probs


def prediction(mean, likelihood="categorical", epistemic=0.0, aleatoric=0.0):
    """A prediction of a mean (N, ..., K) with constant variances."""
    mean = np.asarray(mean, "float32")
    each = np.arange(mean[..., 0].size, dtype="float32").reshape(mean.shape[:-1])
    return tfp_bayes.Prediction(
        mean,
        predictive_entropy=each,
        expected_entropy=each / 2,
        mutual_information=each / 2,
        variation_ratio=1 - mean.max(-1),
        mean_std=each,
        epistemic_variance=np.full_like(mean, epistemic),
        aleatoric_variance=np.full_like(mean, aleatoric),
        likelihood=likelihood,
    )


def test_reliability_diagram_shows_each_bin(guesses):
    y, probs = guesses
    ax = plots.reliability_diagram(y, probs, ax=axes(), num_bins=10)
    accuracy, confidence = calibration_curve(probs.argmax(1) == y, probs.max(1), n_bins=10)
    np.testing.assert_allclose(ax.lines[1].get_xydata(), np.c_[confidence, accuracy], rtol=1e-12)
    counts = np.histogram(probs.max(1), np.linspace(0, 1, 11))[0]
    (top,) = [child for child in ax.child_axes if child.get_xlabel() == "examples in the bin"]
    shown = [int(tick.get_text().replace(",", "")) for tick in top.get_xticklabels()]
    assert shown == counts[counts > 0].tolist()
    error = tfp_bayes.metrics.expected_calibration_error(y, probs, 10)
    assert f"observed (ECE {error:.3f})" in labels(ax)


def test_band_is_the_accuracy_of_labels_drawn_from_one_probability():
    # 400 rows of confidence 0.8: the accuracy under calibration is a binomial share.
    probs = np.tile([0.8, 0.2], (400, 1))
    ax = plots.reliability_diagram(np.zeros(400, int), probs, ax=axes())
    (bar,) = ax.patches
    low, high = scipy.stats.binom.ppf((0.025, 0.975), 400, 0.8) / 400
    assert bar.get_y() == pytest.approx(low, abs=2 / 400)
    assert bar.get_y() + bar.get_height() == pytest.approx(high, abs=2 / 400)
    # |share - 0.8| is below 1.96 standard deviations with probability 95 %.
    assert any("ECE up to 0.039" in label or "ECE up to 0.040" in label for label in labels(ax))
    assert "observed (ECE 0.200)" in labels(ax)


def test_points_of_calibrated_guesses_lie_in_the_band(guesses):
    ax = plots.reliability_diagram(*guesses, ax=axes())
    inside = [
        bar.get_y() <= accuracy <= bar.get_y() + bar.get_height()
        for bar, accuracy in zip(ax.patches, ax.lines[1].get_ydata(), strict=True)
    ]
    assert np.mean(inside) > 0.7
    again = plots.reliability_diagram(*guesses, ax=axes())
    assert [b.get_height() for b in again.patches] == [b.get_height() for b in ax.patches]


def test_confidence_histogram(guesses):
    y, probs = guesses
    ax = plots.confidence_histogram(y, prediction(probs), ax=axes(), num_bins=10)
    shares = np.histogram(probs.max(1), np.linspace(0, 1, 11))[0] / len(y)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], shares)
    confidence, accuracy = (line.get_xdata()[0] for line in ax.lines)
    assert confidence == pytest.approx(probs.max(1).mean(), rel=1e-6)
    assert accuracy == (probs.argmax(1) == y).mean()


def test_selective_curves_keep_ties_together():
    rng = np.random.default_rng(1)
    errors, unsure = rng.random(200) < 0.3, rng.integers(0, 30, 200) / 10
    levels = np.unique(unsure)
    kept = np.array([(unsure <= level).mean() for level in levels])
    risk = np.array([errors[unsure <= level].mean() for level in levels])
    found = [
        plot(errors, unsure, ax=axes(), **options).lines[0].get_xydata()
        for plot, options in (
            (plots.risk_coverage_curve, {}),
            (plots.retention_curve, {}),
            (plots.retention_curve, {"oracle": True}),
        )
    ]
    for points, expected in zip(found, (risk, 1 - risk, 1 - risk * kept), strict=True):
        np.testing.assert_allclose(points, np.c_[kept, expected], rtol=1e-12)


def test_score_histograms_share_their_bins():
    scores = {"in": np.array([0.0, 0.1, 0.8, 0.9]), "out": np.array([0.6, 2.0])}
    ax = plots.score_histograms(scores, ax=axes(), num_bins=4)
    lines = [patch for patch in ax.patches if not patch.get_fill()]
    np.testing.assert_allclose(heights(lines[0]), [0.5, 0.5, 0, 0])  # edges 0, .5, 1, 1.5, 2
    np.testing.assert_allclose(heights(lines[1]), [0, 0.5, 0, 0.5])
    assert labels(ax) == ["in (4)", "out (2)"]


def test_entropy_against_information_marks_errors():
    entropy, information = np.array([0.2, 0.5, 1.0]), np.array([0.1, 0.0, 0.7])
    ax = plots.entropy_against_information(entropy, information, [0, 1, 0], ax=axes())
    right, wrong = (points.get_offsets() for points in ax.collections)
    np.testing.assert_allclose(right, [[0.2, 0.1], [1.0, 0.7]])
    np.testing.assert_allclose(wrong, [[0.5, 0.0]])
    assert labels(ax)[:2] == ["right (2)", "wrong (1)"]
    assert len(plots.entropy_against_information(entropy, information, ax=axes()).collections) == 1


def test_images_are_sorted_and_wrong_ones_framed():
    images = np.arange(5.0)[:, None, None, None] * np.ones((1, 4, 6, 1))
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
    unsure, y = np.array([0.1, 0.4, 0.2, 0.3, 0.5]), [0, 1, 0, 0, 0]
    ax = plots.certain_and_uncertain_images(
        images, probs, unsure, y, ax=axes(), num_images=3, class_names=["cat", "dog"]
    )
    assert [image.get_array().flat[0] for image in ax.images] == [0, 2, 3, 4, 1, 3]
    framed = {(patch.get_x(), patch.get_y()) for patch in ax.patches}
    corners = [(image.get_extent()[0], image.get_extent()[3]) for image in ax.images]
    assert framed == {corners[2], corners[4], corners[5]}
    texts = [text.get_text() for text in ax.texts]
    assert "dog,\nnot cat\n0.3" in texts
    assert "cat,\nnot dog\n0.4" in texts
    assert "cat\n0.1" in texts


def test_uncertainty_maps_of_a_prediction_and_of_arrays():
    p = prediction(np.full((2, 4, 6, 3), 1 / 3))
    figure = Figure(layout="constrained")
    ax = plots.uncertainty_maps(np.zeros((4, 6)), p[[1]], ax=figure.subplots())
    shown = [np.asarray(image.get_array()) for image in ax.images[1:]]
    np.testing.assert_array_equal(shown, [p.predictive_entropy[1], p.mutual_information[1]])
    assert [bar.get_xlabel() for bar in ax.child_axes] == [
        "predictive entropy (nats)",
        "mutual information (nats)",
    ]
    real = prediction(np.zeros((1, 4, 6, 1)), "normal", epistemic=4.0, aleatoric=9.0)
    ax = plots.uncertainty_maps(np.zeros((4, 6, 3)), real, ax=axes())
    assert [image.get_array().flat[0] for image in ax.images[1:]] == [3, 2]


def test_regression_bands_are_sorted_and_add_variances():
    x = np.array([[2.0], [0.0], [1.0]])
    p = prediction([[20.0], [0.0], [10.0]], "normal", epistemic=9.0, aleatoric=16.0)
    ax = plots.regression_bands(x, p, ax=axes(), data=([0, 1], [1, 2]), inner="epistemic")
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0, 0], [1, 10], [2, 20]])
    for band, width in zip(ax.collections, (10, 6), strict=True):
        low, high = band.get_paths()[0].vertices[[1, -2], 1]
        assert sorted([abs(low), abs(high)]) == pytest.approx([width, width])
    assert labels(ax) == ["total, 2 std", "epistemic, 2 std", "mean", "data"]


def test_weights_of_every_family():
    inputs = keras.Input((4,))
    dense = tfp_bayes.layers.DenseReparameterization
    x = dense(3, name="a", bias_posterior="mean_field_normal", bias_prior="normal")(inputs)
    x = dense(3, name="b", kernel_posterior="low_rank_normal")(x)
    x = dense(2, name="c", kernel_posterior="normalizing_flow")(x)
    model = keras.Model(inputs, x)
    found = plots.weight_moments(model)
    assert list(found) == ["a/kernel", "a/bias", "b/kernel", "c/kernel"]
    np.testing.assert_allclose(found["a/kernel"].mean, np.ravel(model.get_layer("a").kernel_loc))
    np.testing.assert_allclose(found["a/kernel"].std, 0.0067, rtol=1e-4)
    factor = np.asarray(model.get_layer("b").kernel_factor)
    std = np.sqrt(0.0067**2 + (factor**2).sum(1))
    np.testing.assert_allclose(found["b/kernel"].std, std, rtol=1e-4)
    np.testing.assert_allclose(found["c/kernel"].std, 0.0067, rtol=5.5 / np.sqrt(2 * 200))
    assert len(plots.weight_posteriors(model, ax=axes()).lines) == 4
    with pytest.raises(ValueError, match="Expected a model with random weights"):
        plots.weight_moments(keras.Sequential([inputs, keras.layers.Dense(2)]))


def test_weights_of_layers_that_share_a_name_are_all_there():
    def layer():
        return tfp_bayes.layers.DenseFlipout(4, name="same")

    inputs, inner = keras.Input((4,)), keras.Input((4,))
    model = keras.Model(inputs, keras.Model(inner, layer()(inner))(layer()(inputs)))
    assert list(plots.weight_moments(model)) == ["same/kernel", "same/kernel (2)"]
    sequence = keras.Input((3, 4))
    attention = tfp_bayes.layers.MultiHeadAttentionReparameterization
    x = attention(1, 2, name="first")(sequence, sequence)
    x = attention(1, 2, name="second")(x, x)
    names = list(plots.weight_moments(keras.Model(sequence, x)))
    assert {"first/query/kernel", "second/query/kernel"} < {*names}
    assert len(names) == 8


def test_weight_plots_hold_the_moments():
    rng = np.random.default_rng(0)
    weights = {
        "a": (rng.normal(size=(30, 100)), rng.uniform(0.1, 1, (30, 100))),
        "b": ([3.0], [1.0]),
    }
    ax = plots.weight_posteriors(weights, ax=axes())
    at, density = ax.lines[1].get_data()
    np.testing.assert_allclose(density, scipy.stats.norm.pdf(at, 3, 1))
    at, density = ax.lines[0].get_data()
    mean, std = weights["a"]
    exact = scipy.stats.norm.pdf(at[:, None], mean.ravel(), std.ravel()).mean(1)
    np.testing.assert_allclose(density, exact, atol=0.01)
    ax = plots.signal_to_noise(weights, ax=axes(), num_bins=20)
    ratios = np.maximum(np.abs(mean / std).ravel(), 1e-3)
    values, edges, _ = ax.patches[0].get_data()
    np.testing.assert_allclose(values, np.histogram(ratios, edges)[0] / ratios.size)
    assert [sum(heights(patch)) for patch in ax.patches] == pytest.approx([1, 1])
    assert edges[:2] == pytest.approx(ratios.min() * np.array([1, (edges[1] / edges[0])]))
    assert labels(ax)[1] == "b, median 3"


def test_learning_curve_has_the_t_interval_of_scipy():
    values = np.random.default_rng(0).random((5, 4))
    ax = plots.learning_curve([0, 10, 20, 30], values, ax=axes(), label="BALD")
    expected = scipy.stats.t.interval(0.95, 4, values.mean(0), scipy.stats.sem(values))
    band = ax.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(band[1:5, 1], expected[0])
    np.testing.assert_allclose(band[6:10, 1][::-1], expected[1])
    plots.learning_curve([0, 10], [0.1, 0.2], ax=ax, label="random")
    assert len(ax.collections) == 1  # one seed has no band
    assert [line.get_color() for line in ax.lines] == list(COLORS[:2])
    assert ax.lines[0].get_marker() != ax.lines[1].get_marker()


@pytest.mark.parametrize("size", [(2.2, 2), (3.3, 2.5), (7, 5)])
def test_legends_and_titles_cover_neither_data_nor_each_other(size, guesses):
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    plots.reliability_diagram(*guesses, ax=ax)
    ax.set_title("a title")
    figure.draw_without_rendering()
    legend = ax.child_axes[-1].get_legend().get_window_extent()
    assert legend.y0 > ax.get_window_extent().y1
    assert ax.title.get_window_extent().y0 > legend.y1
    (top,) = [child for child in ax.child_axes if child.get_xlabel()]
    assert not legend.overlaps(top.get_tightbbox())


def test_one_legend_for_all_curves_and_none_if_not_wanted():
    ax = axes()
    for label in ("a", "b"):
        plots.learning_curve([0, 1], [0.1, 0.2], ax=ax, label=label)
    (child,) = ax.child_axes
    assert [text.get_text() for text in child.get_legend().get_texts()] == ["a", "b"]
    ax = plots.learning_curve([0, 1], [0.1, 0.2], ax=axes(), label="a", legend=False)
    assert not ax.child_axes


ARGUMENTS = {
    "certain_and_uncertain_images": (np.zeros((2, 4, 4)), [[0.5, 0.5]] * 2, [1, 2]),
    "confidence_histogram": ([0, 1], [[0.5, 0.5]] * 2),
    "entropy_against_information": ([1, 2], [0, 1]),
    "learning_curve": ([0, 1], [0, 1]),
    "regression_bands": ([0, 1], [0, 1], [1, 1]),
    "reliability_diagram": ([0, 1], [[0.5, 0.5]] * 2),
    "retention_curve": ([0, 1], [1, 2]),
    "risk_coverage_curve": ([0, 1], [1, 2]),
    "score_histograms": ({"a": [1, 2]},),
    "signal_to_noise": ({"a": ([1, 2], [1, 1])},),
    "uncertainty_maps": (np.zeros((4, 4)), {"a": np.zeros((4, 4))}),
    "weight_posteriors": ({"a": ([1, 2], [1, 1])},),
}


def spoiled(argument):
    """Returns the same argument with a NaN in each of its arrays."""
    if isinstance(argument, dict):
        name, value = next(iter(argument.items()))
        return {name: tuple(map(spoiled, value)) if isinstance(value, tuple) else spoiled(value)}
    array = np.array(argument, "float64")
    array.flat[0] = np.nan
    return array


def test_every_plot_is_listed():
    assert sorted({*ARGUMENTS, "weight_moments"}) == sorted(plots.__all__)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_axes_are_given_and_returned_and_nothing_else_changes(name):
    plot, arguments = getattr(plots, name), ARGUMENTS[name]
    before, ax = dict(matplotlib.rcParams), axes()
    assert plot(*arguments, ax=ax) is ax
    assert dict(matplotlib.rcParams) == before
    ax.figure.savefig("/dev/null", format="png", dpi=20)
    for wrong in (Figure().subplots(1, 2), Figure(), None, Figure().add_subplot(polar=True)):
        with pytest.raises(ValueError, match=r"Expected rectilinear Axes .* for `ax`. Received"):
            plot(*arguments, ax=wrong)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_nan_is_refused_in_every_argument(name):
    plot, arguments = getattr(plots, name), list(ARGUMENTS[name])
    for i, argument in enumerate(arguments):
        given = [*arguments[:i], spoiled(argument), *arguments[i + 1 :]]
        with pytest.raises(ValueError, match=r"Expected .* Received: .* Hint: "):
            plot(*given, ax=axes())


@pytest.mark.parametrize(
    ("name", "arguments", "options", "message"),
    [
        ("retention_curve", ([0, 1, 1], [1, 2]), {}, "for each of 2 examples"),
        ("retention_curve", ([0, 2], [1, 2]), {}, "Expected 0 or 1 for each"),
        ("retention_curve", ([0, 1], np.ones((2, 3))), {}, r"shape \(2, 3\)"),
        ("entropy_against_information", ([1, 2], [0, 1], [0]), {}, r"one row per example .*: 1"),
        ("entropy_against_information", ([1, 2], [0, 1], [0, 2]), {}, "Expected 0 or 1"),
        ("reliability_diagram", ([0], np.full((1, 4, 4, 2), 0.5)), {}, r"p.mean.reshape\(-1, K\)"),
        ("reliability_diagram", ([0], [[0.5, 0.5]]), {"num_bins": 0}, "for `num_bins`"),
        ("confidence_histogram", ([0, 1], prediction([[0.5]] * 2, "bernoulli")), {}, "bernoulli"),
        ("score_histograms", ([1, 2],), {}, "in a dictionary, for `scores`"),
        ("score_histograms", ({f"{i}": [1] for i in range(9)},), {}, "at most 8 sets"),
        ("regression_bands", ([0, 1], [1, 2], [-1, 1]), {}, "for `epistemic_std`"),
        ("regression_bands", ([0, 1], [1, 2, 3]), {}, "'mean': 3"),
        ("regression_bands", ([0, 1], prediction([[0.5, 0.5]] * 2)), {}, "real targets"),
        ("regression_bands", ([0], prediction([[1, 2]], "normal")), {}, "2 targets"),
        ("regression_bands", ([0], [1]), {"inner": "both"}, "for `inner`"),
        ("regression_bands", ([0], [1]), {"data": [1, 2, 3]}, "a pair of inputs and targets"),
        ("regression_bands", ([0], [1]), {"num_stds": 0}, "for `num_stds`"),
        ("learning_curve", ([0, 1], np.ones((2, 3))), {}, r"\(2, 3\)"),
        ("learning_curve", ([1, 0], [1, 2]), {}, "ascending"),
        ("signal_to_noise", ({"a": ([1], [0])},), {}, "Expected positive standard deviations"),
        ("signal_to_noise", ({"a": [1, 2, 3]},), {}, "a pair of means and standard deviations"),
        ("signal_to_noise", ({"a": ([1], [1])},), {"num_bins": 0}, "for `num_bins`"),
        ("uncertainty_maps", (np.zeros((4, 4)), {"a": np.zeros((2, 2))}), {}, "value per pixel"),
        ("uncertainty_maps", (np.zeros((4, 4, 2)), {"a": np.zeros((4, 4))}), {}, "one channel"),
        ("uncertainty_maps", (np.full((4, 4, 3), 255), {"a": np.zeros((4, 4))}), {}, r"x / 255"),
        ("uncertainty_maps", (np.zeros((4, 4)), prediction([[0.5, 0.5]])), {}, r"p\[\[i\]\]"),
        (
            "uncertainty_maps",
            (np.zeros((4, 4)), prediction(np.zeros((1, 4, 4, 2)), "normal")),
            {},
            "Received: 2 targets",
        ),
        (
            "certain_and_uncertain_images",
            (np.zeros((2, 4, 4)), [[0.5, 0.5]] * 2, [1, 2]),
            {"class_names": ["a"]},
            "Expected 2 names",
        ),
    ],
)
def test_what_does_not_fit_is_refused(name, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(plots, name)(*arguments, ax=axes(), **options)
