"""`evaluate`: every form of models and examples, agreement with the metric functions, errors."""

import csv
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import run_python

import tfp_bayes
from tfp_bayes import datasets, metrics
from tfp_bayes.inference import StoredPosterior
from tfp_bayes.layers import MCDropout, NormalParameters
from tfp_bayes.uncertainty import apply_temperature, fit_temperature

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 150)
X = (np.eye(6)[LABELS] + RNG.normal(size=(150, 6))).astype("float32")
OTHER = (3 * RNG.normal(size=(90, 6))).astype("float32")


def plain(name="plain", stochastic=False):
    """A classifier with fixed weights that is better than chance."""
    inputs = keras.Input((6,))
    hidden = MCDropout(0.3)(inputs) if stochastic else inputs
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(hidden), name=name)
    model.layers[-1].set_weights([np.eye(6, 3, dtype="float32") * 1.5, np.zeros(3, "float32")])
    return model


@pytest.fixture(scope="module")
def models():
    return {
        "dropout": tfp_bayes.Predictor(plain(stochastic=True)),
        "plain": tfp_bayes.Predictor(plain()),
    }


@pytest.fixture(scope="module")
def report(models):
    calibration = X[:50], LABELS[:50]
    return tfp_bayes.evaluate(models, (X, LABELS), OTHER, calibration, num_samples=20, seed=1)


def test_numbers_are_those_of_the_functions(models, report):
    p = models["dropout"].predict_uncertainty(X, num_samples=20, seed=1)
    q = models["dropout"].predict_uncertainty(OTHER, num_samples=20, seed=1)
    wrong, unsure = p.mean.argmax(-1) != LABELS, 1 - p.mean.astype("float64").max(-1)
    held = models["dropout"].predict_uncertainty(X[:50], num_samples=20, seed=1)
    temperature = fit_temperature(LABELS[:50], held.mean)
    pair = p.mutual_information, q.mutual_information
    expected = {
        "accuracy": metrics.accuracy(LABELS, p.mean),
        "nll": metrics.nll(LABELS, p.mean),
        "temperature": temperature,
        "nll_calibrated": metrics.nll(
            LABELS, apply_temperature(p.mean.astype("float64"), temperature)
        ),
        "brier": metrics.brier(LABELS, p.mean),
        "ece_10": metrics.expected_calibration_error(LABELS, p.mean, 10),
        "ece_15": metrics.expected_calibration_error(LABELS, p.mean, 15),
        "ece_15_floor": metrics.calibration_floor(p.mean, seed=1).quantile_95,
        "aurc": metrics.aurc(wrong, unsure),
        "augrc": metrics.augrc(wrong, unsure),
        "error_auroc_entropy": metrics.error_auroc(wrong, p.predictive_entropy),
        "ood_auroc_mutual_information": metrics.auroc(*pair),
        "ood_fpr95_mutual_information": metrics.fpr_at_tpr(*pair),
        "num_samples": 20,
    }
    for name, value in expected.items():
        assert report.values["dropout"][name] == pytest.approx(value, rel=1e-9), name
    assert report.values["plain"]["num_samples"] == 1
    assert np.isnan(report.values["plain"]["ood_auroc_mutual_information"])
    assert report.values["plain"]["milliseconds"] > 0
    for metric in report.metrics:
        value, low, high = report.estimate(metric)
        assert np.isnan(low) or low <= value <= high, metric


def test_a_model_does_not_differ_from_itself(models):
    model = models["dropout"]
    found = tfp_bayes.evaluate([model, model], (X, LABELS), OTHER, num_samples=5)
    first, second = found.models
    assert second == f"{first} (2)"
    for metric in found.metrics:
        if metric != "milliseconds" and metric in found.draws[first]:
            assert found.difference(metric, second) == (0, 0, 0), metric


def test_cross_fitted_temperature_says_so(models):
    p = models["plain"].model.predict(X, verbose=0)
    found = tfp_bayes.evaluate(models["plain"], (X, LABELS), seed=4)
    half = np.random.default_rng(4).permutation(150) < 75
    calibrated = np.empty((150, 3))
    for rows in (half, ~half):
        calibrated[rows] = apply_temperature(p[rows], fit_temperature(LABELS[~rows], p[~rows]))
    expected = metrics.nll(LABELS, calibrated)
    assert found.estimate("nll_calibrated").value == pytest.approx(expected, rel=1e-5)
    assert "no `calibration` was given" in found.table()


def test_every_form_of_examples_gives_the_same(models, tmp_path):
    dataset = datasets.Dataset(X[:0], LABELS[:0], X, LABELS, ("a", "b", "c"))
    shuffled = tf.data.Dataset.from_tensor_slices((X, LABELS)).shuffle(150, seed=1).batch(32)
    expected = tfp_bayes.evaluate(models, (X, LABELS), num_samples=3)
    forms = {
        "column": (X, LABELS[:, None]),
        "one-hot": (X, np.eye(3)[LABELS]),
        "float": (X, LABELS.astype("float32")),
        "Dataset": dataset,
        "reshuffled at each reading": shuffled,
    }
    for form, data in forms.items():
        found = tfp_bayes.evaluate(models, data, num_samples=3)
        for metric in ("accuracy", "nll", "augrc"):
            for name in found.models:
                value = expected.values[name][metric]
                assert found.values[name][metric] == pytest.approx(value, rel=1e-9), form


def test_table_and_csv(report, tmp_path):
    text = report.table()
    lines = text.splitlines()
    assert lines[0] == "| metric | dropout | plain | plain - dropout |"
    assert len({line.count("|") for line in lines[: 2 + len(report.metrics)]}) == 1
    assert "OOD: 90 examples, which are positive" in text
    report.to_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        rows = {(row["model"], row["metric"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * len(report.metrics)
    row = rows["plain", "nll"]
    found = [float(row[each]) for each in ("value", "low", "high", "difference_low")]
    expected = [*report.estimate("nll", "plain"), report.difference("nll", "plain").low]
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert rows["plain", "error_auroc_mutual_information"]["value"] == ""


def test_html_is_one_file_with_all_pictures(report, tmp_path):
    names = {"<script>": report.models[0], "$x_": report.models[1]}
    renamed = tfp_bayes.evaluate(
        {name: plain(stochastic=each == "dropout") for name, each in names.items()},
        (X.reshape(150, 6), LABELS),
        OTHER,
        num_samples=3,
    )
    renamed.to_html(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert not re.search(r"""https?:|(src|href)\s*=\s*["'](?!data:)|@import|url\(|<script""", text)
    # Two pictures of all models. For each model: reliability, confidences and a histogram of each
    # of two scores. For the random one also mutual information, alone and against the entropy.
    assert text.count("data:image/png;base64,") == 2 + 2 * (2 + 2) + 2
    assert "&lt;script&gt;" in text
    assert text.count("<tr>") == 1 + len(renamed.metrics)


def test_images_are_shown_with_names(tmp_path):
    images = RNG.normal(size=(20, 4, 4, 1)).astype("float32")
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    )
    report = tfp_bayes.evaluate(model, (images, np.arange(20) % 2), class_names=["no", "yes"])
    report.to_html(tmp_path / "r.html")
    assert "most uncertain images" in (tmp_path / "r.html").read_text()
    for names in (["no"], ["no", "no"], "ny"):
        with pytest.raises(ValueError, match="Expected 2 different names"):
            tfp_bayes.evaluate(model, (images[:2], np.arange(2)), class_names=names)


def test_calibration_on_classes_of_another_order_is_refused(models):
    y = LABELS[:20]
    data = datasets.Dataset(X[:20], y, X[:20], y, ("a", "b", "c"), X[:20], y)
    model = models["plain"]
    other = data._replace(class_names=("a", "c", "b"))
    with pytest.raises(ValueError, match=r"classes \['a', 'b', 'c'\] of `data`.*'c', 'b'"):
        tfp_bayes.evaluate(model, data, calibration=other)
    unnamed = data._replace(class_names=())
    tfp_bayes.evaluate(model, data, calibration=unnamed)


def test_regression(tmp_path):
    inputs = keras.Input((6,))
    outputs = NormalParameters(heteroscedastic=False)(keras.layers.Dense(1)(MCDropout(0.2)(inputs)))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal")
    y = X.sum(-1)
    report = tfp_bayes.evaluate(model, (X, y), OTHER, num_samples=8, seed=2)
    p = model.predict_uncertainty(X, num_samples=8, seed=2)
    normal = y[:, None], p.mean, p.std
    values = report.values[model.name]
    assert values["nll"] == pytest.approx(metrics.normal_nll(*normal))
    assert values["nll"] == pytest.approx(p.score(y).nll)
    assert values["crps"] == pytest.approx(metrics.crps_normal(*normal))
    assert values["rmse"] == pytest.approx(metrics.rmse(y[:, None], p.mean))
    pit = metrics.normal_pit(*normal)
    assert values["pit_error"] == pytest.approx(metrics.pit_calibration_error(pit))
    assert values["coverage_90"] == pytest.approx(np.mean(abs(pit - 0.5) <= 0.45))
    report.to_html(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().count("base64,") == 3
    with pytest.raises(ValueError, match="they have no temperature"):
        tfp_bayes.evaluate(model, (X, y), calibration=(X, y))
    with pytest.raises(ValueError, match="predict the same thing"):
        tfp_bayes.evaluate([model, plain()], (X, y))


def test_one_sigmoid_is_two_classes():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(inputs))
    predictor = tfp_bayes.Predictor(model, "bernoulli")
    y = LABELS > 0
    found = tfp_bayes.evaluate(predictor, (X, y[:, None].astype("float32")))
    p = model.predict(X, verbose=0)
    expected = metrics.brier(y.astype(int), np.hstack([1 - p, p]))
    assert found.estimate("brier").value == pytest.approx(expected, rel=1e-5)


def test_few_and_perfect_examples(models, tmp_path):
    right = np.flatnonzero(models["plain"].predict(X, 1).argmax(-1) == LABELS)
    for rows in (right, slice(0, 1)):
        found = tfp_bayes.evaluate(models["plain"], (X[rows], LABELS[rows]))
        assert np.isnan(found.estimate("error_auroc_entropy").value)
        low, high = found.estimate("accuracy")[1:]
        assert high - low > 0.01
    found.to_html(tmp_path / "r.html")
    assert "too narrow" in found.table()


def nan_rows(x, rows):
    x = x.copy()
    x[rows] = np.nan
    return x


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((nan_rows(X, [3, 140]), LABELS), {}, r"`data`.*2 of 150 .*rows \[3, 140\]"),
        ((X, LABELS), {"ood": nan_rows(X, [7])}, r"`ood`.*rows \[7\]"),
        ((X, nan_rows(LABELS * 1.0, [5])), {}, r"finite labels.*rows \[5\]"),
        ((X, LABELS + 1), {}, r"integer labels in \[0, 3\)"),
        ((X, LABELS[:9]), {}, "same length"),
        ((X[:0], LABELS[:0]), {}, "at least one example"),
        ((X, LABELS, np.ones(150)), {}, "sample weights are not supported"),
        (X, {}, r"Expected \(x, y\)"),
        ((X, LABELS), {"ood": (255 * X).astype("uint8")}, "Expected inputs of kind float32"),
        ((X, LABELS), {"calibration": (X, LABELS + 1)}, "integer labels"),
        ((X, LABELS), {"num_samples": 0}, "num_samples"),
        ((X, LABELS), {"seed": -1}, "seed"),
        (datasets.Dataset(X, LABELS, X[:0], LABELS[:0], ()), {}, "labeled test examples"),
    ],
)
def test_what_is_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        tfp_bayes.evaluate(plain(), data, **options)


def test_weights_in_a_dataset_are_refused():
    data = tf.data.Dataset.from_tensor_slices((X, LABELS, np.ones(150))).batch(64)
    with pytest.raises(ValueError, match="without sample weights"):
        tfp_bayes.evaluate(plain(), data)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "Expected a model"),
        ("none.keras", "none.keras does not exist"),
        (7, "Received: int"),
        ({"": 1}, "Expected a model"),
    ],
)
def test_what_is_no_model(given, message):
    with pytest.raises(ValueError, match=message):
        tfp_bayes.evaluate(given, (X, LABELS))


def test_names_of_metrics_and_models_are_checked(report):
    with pytest.raises(ValueError, match="for `metric`"):
        report.estimate("loss")
    with pytest.raises(ValueError, match="for `model`"):
        report.difference("nll", "other")


def test_progress_is_told(models):
    seen = []
    tfp_bayes.evaluate(models["plain"], (X, LABELS), OTHER, on_rows=lambda *args: seen.append(args))
    assert seen == [("data", 150, 150), ("ood", 90, 90)]


FRESH = """
import sys, numpy as np, tfp_bayes
folder = sys.argv[1]
data = np.load(f"{folder}/data.npz")
paths = [f"{folder}/model.keras+{folder}/posterior.npz", f"{folder}/model.keras"]
report = tfp_bayes.evaluate(paths, (data["x"], data["y"]))
print(repr([report.models, [report.values[m]["nll"] for m in report.models]]))
"""


def test_files_in_a_fresh_process(tmp_path):
    model = plain()
    kernel = np.stack([np.eye(6, 3) * scale for scale in (0.5, 1.0, 2.0)])
    posterior = StoredPosterior(model, [kernel, np.zeros((3, 3))])
    model.save(tmp_path / "model.keras")
    posterior.save(tmp_path / "posterior.npz")
    np.savez(tmp_path / "data.npz", x=X, y=LABELS)
    here = tfp_bayes.evaluate([tfp_bayes.Predictor(model, posterior=posterior), model], (X, LABELS))
    assert [here.values[name]["num_samples"] for name in here.models] == [3, 1]
    done = run_python(FRESH, tmp_path)
    assert done.returncode == 0, done.stderr
    names, values = eval(done.stdout)
    assert names == ("model+posterior", "model")
    np.testing.assert_array_equal(values, [here.values[name]["nll"] for name in here.models])
