"""Conditioning the closed-form head in parts gives the same result as on all rows at once."""

import itertools

import keras
import numpy as np
import pytest

import tfp_bayes
from tfp_bayes import scale
from tfp_bayes.layers.regression_data import Examples

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("spread", [1.0, 1e-5])  # 1e-5 is too ill-conditioned for plain sums
def test_joined_sums_are_those_of_all_rows(centered, spread):
    rng = np.random.default_rng(0)
    phi = 5 + spread * rng.normal(size=(300, 6)) + 1e3 * (np.arange(300) > 150)[:, None]
    y = rng.normal(size=(300, 2))
    whole = Examples(6, 2, centered, 0.1)
    whole.add(phi, y, None)
    for edges in ([0, 100, 103, 300], [0, 0, 1, 2, 150, 300]):
        total = Examples(6, 2, centered, 0.1)
        for start, stop in itertools.pairwise(edges):
            part, read = (Examples(6, 2, centered, 0.1) for _ in range(2))
            part.add(phi[start:stop], y[start:stop], None)
            read.set_state(part.get_state())
            total.join(read)
        assert total.center.count == 300
        np.testing.assert_allclose(total.center.features, whole.center.features, rtol=1e-13)
        one, other = (each.factor(0.1, slice(0, 2)) for each in (total, whole))
        np.testing.assert_allclose(one.mean(), other.mean(), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(one.residual, other.residual, rtol=1e-8)


@pytest.fixture(scope="module")
def features():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh")])


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_head_conditioned_in_parts(task, features, tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 4)).astype("float32")
    y = rng.integers(0, 3, 120) if task == "classification" else rng.normal(size=(120, 3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    model = tfp_bayes.BayesianBasisRegression(
        features, 3, task=task, optimize_evidence=task == "regression"
    )
    model.save(tmp_path / "model.keras")
    rows = scale.NpyRows(tmp_path / "x.npy", tmp_path / "y.npy")
    given = tmp_path / "model.keras", rows, tmp_path / "out"
    conditioned = scale.condition(*given, rows_per_part=50)
    model.condition(x, y)
    one, other = (each.predict_uncertainty(x[:9]) for each in (conditioned, model))
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.variance, other.variance, rtol=1e-5)
    assert conditioned.head.num_conditioned == 120
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 3
    again = scale.condition(*given, rows_per_part=50)  # only reads the finished run
    assert np.array_equal(again.predict(x[:9]), conditioned.predict(x[:9]))
    with pytest.raises(ValueError, match="rows_per_part=60"):
        scale.condition(*given, rows_per_part=60)
    first = tmp_path / "out" / "parts" / "part-000000.npz"
    first.write_bytes(first.read_bytes()[:-300])
    (tmp_path / "out" / "_SUCCESS").unlink()
    with pytest.raises(ValueError, match=r"Expected part 0 of the job in .*\.npz"):
        scale.condition(*given, rows_per_part=50)


def test_what_cannot_be_conditioned(folder, tmp_path):
    labelled = scale.NpyRows(folder / "x.npy", folder / "y.npy")
    with pytest.raises(ValueError, match="Expected a BayesianBasisRegression"):
        scale.condition(folder / "model.keras", labelled, tmp_path / "a")
    with pytest.raises(ValueError, match="rows with labels"):
        scale.condition(folder / "model.keras", scale.NpyRows(folder / "x.npy"), tmp_path / "a")
    with pytest.raises(ValueError, match=r"a \.keras file"):
        scale.condition(folder / "served", labelled, tmp_path / "a")
