"""`Conformal`: from a predictor to sets and intervals, saved and loaded."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from processes import run_python

import tfp_bayes
from tfp_bayes.layers import MCDropout, NormalParameters
from tfp_bayes.uncertainty import Conformal, aps_scores, row_uniforms


class Given:
    """A predictor that returns its inputs as predictions."""

    def __init__(self, likelihood="categorical"):
        self.likelihood = likelihood

    def predict_uncertainty(self, x, num_samples, seed, return_samples=False):
        if self.likelihood != "normal":
            return SimpleNamespace(mean=x, likelihood=self.likelihood)
        mean, std = x[:, :1], x[:, 1:]
        return SimpleNamespace(
            mean=mean, std=std, likelihood="normal", interval=lambda _: (mean - std, mean + std)
        )


def classes(num_rows, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num_classes), num_rows)
    return probs, (probs.cumsum(1) > rng.random((num_rows, 1))).argmax(1)


def targets(num_rows, seed=0):
    rng = np.random.default_rng(seed)
    std = rng.uniform(0.1, 2, num_rows)
    return np.stack([rng.normal(size=num_rows), std], 1), rng


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
@pytest.mark.parametrize("class_conditional", [False, True])
def test_covers_classes(method, class_conditional):
    p, y = classes(25_000)
    conformal = Conformal(Given(), method, class_conditional=class_conditional)
    sets = conformal.fit(p[:5000], y[:5000], coverage=0.8).sets(p[5000:])
    covered = sets[np.arange(20_000), y[5000:]]
    least = 5000 / 4 * 0.8 if class_conditional else 5000 * 0.8
    groups = [y[5000:] == k for k in range(4)] if class_conditional else [slice(None)]
    for group in groups:
        sd = np.sqrt(0.16 / least + 0.16 / covered[group].size)
        assert abs(covered[group].mean() - 0.8) < 5.5 * sd
    assert conformal.quantile.shape == ((4,) if class_conditional else ())
    assert conformal.num_calibration == (4000 if method == "raps" else 5000)


@pytest.mark.parametrize("method", ["normalized", "cqr"])
def test_covers_targets(method):
    x, rng = targets(15_000)
    y = x[:, 0] + 3 * x[:, 1] * rng.standard_t(4, len(x))
    conformal = Conformal(Given("normal"), method).fit(x[:5000], y[:5000], coverage=0.8)
    lower, upper = conformal.intervals(x[5000:])
    assert lower.shape == (10_000, 1)
    covered = (lower[:, 0] <= y[5000:]) & (y[5000:] <= upper[:, 0])
    assert abs(covered.mean() - 0.8) < 5.5 * np.sqrt(0.16 / 5000 + 0.16 / 10_000)


def test_intervals_of_wide_quantiles_do_not_cross():
    x = np.c_[np.zeros(200), np.full(200, 2.0)]
    x[100:, 1] = 0.1
    conformal = Conformal(Given("normal"), "cqr").fit(x[:100], np.zeros(100))
    lower, upper = conformal.intervals(x[100:])
    assert conformal.quantile == -2
    assert np.array_equal(lower, upper)
    assert (lower == 0).all()


def test_one_sigmoid_is_two_classes():
    p, y = classes(500, num_classes=2)
    two = Conformal(Given()).fit(p, y)
    one = Conformal(Given("bernoulli")).fit(p[:, 1:], y)
    np.testing.assert_allclose(one.quantile, two.quantile)
    assert one.sets(p[:, 1:]).shape == (500, 2)


def test_sets_are_those_of_the_scores_row_by_row():
    p, y = classes(200)
    conformal = Conformal(Given(), "aps", seed=3).fit(p[:100], y[:100])
    sets = conformal.sets(p[100:])
    u = row_uniforms(p[100:], seed=3)
    assert np.array_equal(sets, aps_scores(p[100:], u) <= conformal.quantile)
    assert np.array_equal(
        sets, np.concatenate([conformal.sets(p[i : i + 1]) for i in range(100, 200)])
    )


def test_empty_sets_get_the_likeliest_class_and_it_says_so():
    p = np.tile([0.99, 0.01], (100, 1))
    y, new = np.zeros(100, "int64"), np.array([[0.45, 0.55]])
    assert not Conformal(Given()).fit(p, y).sets(new).any()
    conformal = Conformal(Given(), allow_empty=False).fit(p, y)
    with pytest.warns(UserWarning, match="1 of 1 sets were empty"):
        assert conformal.sets(new).tolist() == [[False, True]]


def test_too_few_examples_cover_everything_and_it_says_so():
    p, y = classes(8)
    with pytest.warns(UserWarning, match="sets hold every class: .* at least 9"):
        assert Conformal(Given()).fit(p, y).sets(p).all()
    x, _ = targets(8)
    with pytest.warns(UserWarning, match="intervals are infinite"):
        lower, upper = Conformal(Given("normal"), "cqr").fit(x, x[:, 0]).intervals(x)
    assert np.isinf(lower).all()
    assert np.isinf(upper).all()
    p, y = classes(400)
    y[y == 2] = 1
    with pytest.warns(UserWarning, match=r"of the classes \[2\], which are in every set"):
        sets = Conformal(Given(), class_conditional=True).fit(p, y).sets(p)
    assert sets[:, 2].all()
    assert not sets[:, 1].all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, y: Conformal(Given(), "lca"), "for `method`"),
        (lambda p, y: Conformal(Given(), "cqr", allow_empty=False), "method for classes"),
        (lambda p, y: Conformal(Given(), "aps", penalty=0.1), "for `penalty`"),
        (lambda p, y: Conformal(Given(), "raps", penalty=np.nan), "for `penalty`"),
        (lambda p, y: Conformal(Given()).sets(p), "not fitted"),
        (lambda p, y: Conformal(Given()).save("here"), "fitted object to save"),
        (lambda p, y: Conformal(Given()).fit(p, y).intervals(p), "returns intervals"),
        (lambda p, y: Conformal(Given()).fit(p, y + 1), "Expected labels in"),
        (lambda p, y: Conformal(Given()).fit(p, y[:, None]), "integer labels of shape"),
        (lambda p, y: Conformal(Given()).fit(p, y[:-1]), "integer labels of shape"),
        (lambda p, y: Conformal(Given()).fit(p, y, coverage=90), "for `coverage`"),
        (lambda p, y: Conformal(Given()).fit(p * np.nan, y), "rows \\[0, 1, 2, 3, 4\\]"),
        (lambda p, y: Conformal(Given()).fit(p, y).sets(p * np.nan), "NaN or infinity in rows"),
        (lambda p, y: Conformal(Given("bernoulli")).fit(p, y), "one sigmoid"),
        (lambda p, y: Conformal(Given("normal")).fit(p, y), "and categorical or bernoulli"),
        (lambda p, y: Conformal(Given(), "cqr").fit(p, y), "and normal likelihood"),
        (lambda p, y: Conformal(Given()).fit(p[:, None], y), "mean of shape"),
        (lambda p, y: Conformal.load(__file__, Given()), "Expected a file from Conformal.save"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(*classes(30))


LOAD = """
import sys, keras, numpy as np, tfp_bayes
from tfp_bayes.uncertainty import Conformal
folder, x = sys.argv[1], np.load(sys.argv[1] + "/x.npy")
model = keras.models.load_model(folder + "/model.keras")
np.save(folder + "/sets.npy", Conformal.load(folder + "/conformal.npz", model).sets(x))
"""


def test_a_model_in_a_fresh_process_and_another_model(tmp_path):
    model = tfp_bayes.BayesianMLP((4,), 3, hidden_units=(8,), seed=0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    conformal = Conformal(model, "raps", num_samples=5).fit(x, y)
    conformal.save(tmp_path / "conformal.npz")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    done = run_python(LOAD, tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "sets.npy"), conformal.sets(x))

    model.weights[-1].assign(model.weights[-1] + 1)
    with pytest.raises(ValueError, match="other weights"):
        conformal.sets(x)


@pytest.mark.parametrize("method", ["normalized", "cqr"])
def test_a_regression_of_two_targets(method):
    inputs = keras.Input((4,))
    outputs = NormalParameters()(MCDropout(0.2, seed=0)(inputs))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal")
    x = np.random.default_rng(0).normal(size=(50, 4))
    conformal = Conformal(model, method, num_samples=8).fit(x, x[:, :2], coverage=0.8)
    lower, upper = conformal.intervals(x)
    assert lower.shape == (50, 2)
    assert conformal.quantile.shape == (2,)
    covered = ((lower <= x[:, :2]) & (x[:, :2] <= upper)).sum(0)
    assert np.array_equal(covered, [41, 41])  # the quantile is the 41st smallest of 50
