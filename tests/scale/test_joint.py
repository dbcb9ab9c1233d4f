"""Certified BatchBALD and EPIG choose the same rows as among all rows of the pool."""

import types

import keras
import numpy as np
import pytest

from tfp_bayes import scale
from tfp_bayes.active import acquisition
from tfp_bayes.active.selectors.batch_bald import batch_bald, pick_batch

pytest.importorskip("pyarrow")
S, SEED, SIZE = 20, 3, 4


@pytest.fixture(scope="module")
def model(folder):
    return keras.models.load_model(folder / "model.keras")


@pytest.fixture(scope="module")
def rows(folder, tmp_path_factory):
    """Three copies of each row, so the rows of highest BALD are copies of each other."""
    path = tmp_path_factory.mktemp("rows") / "x.npy"
    np.save(path, np.repeat(np.load(folder / "x.npy")[:60], 3, axis=0))
    return scale.NpyRows(path)


@pytest.fixture(scope="module")
def pool(folder, rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("scores")
    given = {"num_samples": S, "seed": SEED, "rows_per_part": 50}
    return scale.score_pool(folder / "model.keras", rows, out, **given)


@pytest.fixture(scope="module")
def prediction(model, rows):
    everything = model.predict_uncertainty(rows[np.arange(len(rows))], S, SEED, return_samples=True)
    return everything[np.flatnonzero(np.isfinite(everything.mutual_information))]


def finite(pool):
    return np.setdiff1d(np.arange(pool.num_rows), [21, 22, 23])  # the copies of the NaN row


def test_batch_bald_is_that_of_the_whole_pool(pool, folder, rows, prediction):
    whole = pick_batch(prediction.samples, SIZE)
    x = rows[np.arange(len(rows))]
    for candidates in (SIZE, 12, 1000):
        batch = scale.batch_bald(pool, folder / "model.keras", rows, SIZE, candidates=candidates)
        assert batch.num_certified == SIZE
        np.testing.assert_allclose(batch.gains, whole.gains, atol=1e-6)
        # Another copy of the same row may be chosen.
        assert np.array_equal(x[batch.rows], x[finite(pool)[whole.positions]])
    assert batch.num_candidates == len(rows) - 3
    few = scale.batch_bald(pool, folder / "model.keras", rows, SIZE, candidates=SIZE)
    assert SIZE < few.num_candidates < len(rows) - 3  # candidates were added, but not all rows
    # The four rows of highest BALD are a different batch.
    top = pool.top(SIZE, "mutual_information").rows
    assert not np.array_equal(np.sort(few.rows), np.sort(top))


def test_what_is_not_proven_is_not_certified(pool, folder, rows):
    batch = scale.batch_bald(
        pool, folder / "model.keras", rows, SIZE, candidates=SIZE, most=SIZE + 1
    )
    assert batch.num_certified < SIZE
    assert batch.num_candidates == SIZE + 1
    sampled = scale.batch_bald(pool, folder / "model.keras", rows, SIZE, max_configurations=3)
    assert sampled.num_certified == 2  # the labels of one row are enumerated, but not of two


def test_epig_is_that_of_the_whole_pool(pool, folder, rows, model, prediction):
    targets = np.array([0, 33, 90])
    asked = model.predict_uncertainty(rows[targets], S, SEED, return_samples=True)
    expected = np.sort(acquisition.epig(prediction, asked))[::-1][:SIZE]
    batch = scale.epig(pool, folder / "model.keras", rows, SIZE, targets=targets, candidates=SIZE)
    assert batch.num_certified == SIZE
    np.testing.assert_allclose(batch.gains, expected, atol=1e-6)
    drawn = scale.epig(pool, folder / "model.keras", rows, SIZE)
    assert drawn.num_certified == SIZE


def test_gains_are_bounded_by_bald(prediction):
    # The certificate relies on these bounds, up to the rounding of both computations.
    batch = pick_batch(prediction.samples, 5)
    assert (batch.gains <= prediction.mutual_information[batch.positions] + 1e-6).all()
    assert (np.diff(batch.gains) <= 1e-6).all()
    assert batch.is_exact.all()
    assert np.array_equal(batch.positions, batch_bald(prediction.samples, 5))
    targets = prediction[np.arange(0, len(prediction), 9)]
    scores = acquisition.epig(prediction, targets)
    assert (scores <= prediction.mutual_information + 1e-6).all()


def test_what_did_not_score_the_pool_is_refused(pool, folder, rows, tmp_path, model):
    with pytest.raises(ValueError, match="another `rows`"):
        scale.batch_bald(pool, folder / "model.keras", scale.NpyRows(folder / "x.npy"), 2)
    with pytest.raises(ValueError, match="another `model`"):
        scale.epig(pool, folder / "served", rows, 2)
    served = scale.score_pool(folder / "served", rows, tmp_path / "served", num_samples=S)
    with pytest.raises(ValueError, match=r"Expected a \.keras file"):
        scale.batch_bald(served, folder / "served", rows, 2)
    with pytest.raises(ValueError, match=r"for `targets`.*Received: bool"):
        scale.epig(pool, folder / "model.keras", rows, 2, targets=np.ones(len(rows), bool))
    with pytest.raises(ValueError, match="query_size"):
        scale.batch_bald(pool, folder / "model.keras", rows, 500)
    x = rows[np.arange(30)]
    calibrated = keras.models.load_model(folder / "model.keras")
    calibrated.calibrate(x[:20], np.zeros(20, int))
    calibrated.save(tmp_path / "calibrated.keras")
    other = scale.score_pool(tmp_path / "calibrated.keras", rows, tmp_path / "c", num_samples=S)
    with pytest.raises(ValueError, match=r"before model\.calibrate"):
        scale.batch_bald(other, tmp_path / "calibrated.keras", rows, 2)
    moved = types.SimpleNamespace(**vars(pool), top=pool.top, read=pool.read)
    moved.identity = {**pool.identity, "seed": SEED + 1}  # samples of other functions
    with pytest.raises(ValueError, match="mutual information that differs"):
        scale.batch_bald(moved, folder / "model.keras", rows, 2)
