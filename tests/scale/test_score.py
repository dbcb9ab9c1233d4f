"""Scores of real models equal those of `predict_uncertainty`, for any division into parts."""

import csv
import json
import re

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import tfp_bayes
from tfp_bayes import scale
from tfp_bayes.cli import main
from tfp_bayes.scale.parts import read_columns

pa = pytest.importorskip("pyarrow")
NUM_ROWS = 230
S, SEED = 6, 3


@pytest.fixture(scope="module")
def model(folder):
    return keras.models.load_model(folder / "model.keras")


@pytest.fixture(scope="module")
def x(folder):
    return np.load(folder / "x.npy")


@pytest.fixture(scope="module")
def pool(folder, tmp_path_factory):
    return score(folder, tmp_path_factory.mktemp("scores"))


def score(folder, out, model="model.keras", labelled=True, **kwargs):
    rows = scale.NpyRows(folder / "x.npy", folder / "y.npy" if labelled else None)
    given = {"num_samples": S, "seed": SEED, "rows_per_part": 64, **kwargs}
    return scale.score_pool(folder / model, rows, out, **given)


def column(pool, name):
    return np.concatenate([read_columns(path, [name])[name] for path in pool.parts])


def test_scores_are_those_of_predict_uncertainty(pool, model, x, folder):
    p = model.predict_uncertainty(x, S, seed=SEED)
    for name in ("predictive_entropy", "expected_entropy", "mutual_information", "mean"):
        assert np.array_equal(column(pool, name), getattr(p, name), equal_nan=True)
    assert np.array_equal(column(pool, "score"), p.mutual_information, equal_nan=True)
    assert np.array_equal(column(pool, "row"), np.arange(NUM_ROWS))
    finite = np.isfinite(p.predictive_entropy)
    assert np.flatnonzero(~finite).tolist() == [7, 200]
    assert np.array_equal(column(pool, "predicted"), np.where(finite, p.mean.argmax(-1), -1))
    y = np.load(folder / "y.npy")
    summary = pool.summary
    assert (summary.num_rows, summary.num_non_finite) == (NUM_ROWS, 2)
    assert summary.nll == pytest.approx(p[finite].score(y[finite]).nll, rel=1e-6)
    assert summary.accuracy == pytest.approx(p[finite].score(y[finite]).accuracy)
    expected = np.lexsort((np.arange(NUM_ROWS), -np.nan_to_num(p.mutual_information, nan=-1)))
    assert np.array_equal(pool.top(20).rows, expected[:20])
    assert len(pool.top(1000).rows) == NUM_ROWS - 2
    assert len(set(pool.power(10, seed=1).rows) ^ set(pool.power(10, seed=2).rows)) > 0
    rows = [229, 0, 64, 63]
    read = pool.read(rows)
    assert np.array_equal(read["row"], rows)
    assert np.array_equal(read["mean"], p.mean[rows])
    assert pool.read([])["mean"].shape == (0, 3)
    for wrong in ([NUM_ROWS], [-1], [1.5], finite, [[1]], 1):
        with pytest.raises(ValueError, match=rf"row numbers in \[0, {NUM_ROWS}\) for `rows`"):
            pool.read(wrong)


def test_the_partition_and_the_saved_form_do_not_matter(pool, folder, tmp_path):
    parts = []
    other = score(
        folder, tmp_path, "served", rows_per_part=97, on_part=lambda *counts: parts.append(counts)
    )
    assert parts == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert other.summary.as_json() == pool.summary.as_json()
    assert np.array_equal(other.top(50).rows, pool.top(50).rows)
    assert np.array_equal(other.softmax(50).rows, pool.softmax(50).rows)
    # Continue this run with worker processes.
    for path in (other.parts[1], tmp_path / "_SUCCESS"):
        path.unlink()
    content = other.parts[0].read_bytes(), other.parts[2].read_bytes()
    again = score(folder, tmp_path, "served", rows_per_part=97, engine="processes", workers=2)
    assert again.summary.as_json() == pool.summary.as_json()
    assert (again.parts[0].read_bytes(), again.parts[2].read_bytes()) == content
    again.verify()


def test_rows_that_change_meanwhile_end_the_run(folder, tmp_path):
    (tmp_path / "rows").mkdir()
    write = scale.parts.pyarrow().parquet.write_table
    write(pa.table({"x": [1.0, 2.0]}), tmp_path / "rows" / "1.parquet")
    rows = scale.ParquetRows(tmp_path / "rows")
    with pytest.raises(ValueError, match=r"inside .*rows"):
        scale.score_pool(folder / "model.keras", rows, tmp_path / "rows" / "out")

    def change(done, total):
        write(pa.table({"x": [3.0, 4.0]}), tmp_path / "rows" / "0.parquet")
        vars(rows).clear()
        vars(rows).update(path=str(tmp_path / "rows"), columns=("x",), label=None, shape=None)

    with pytest.raises(ValueError, match="which has changed"):
        scale.score_pool(folder / "model.keras", rows, tmp_path / "out", on_part=change)


def test_a_finished_run_is_only_read(pool, folder, monkeypatch):
    def fail(*args):
        raise AssertionError("opened")

    monkeypatch.setattr(scale.scoring, "_open", fail)
    score(folder, pool.folder)
    first = (pool.folder / "top.csv").stat().st_mtime_ns
    score(folder, pool.folder)
    assert (pool.folder / "top.csv").stat().st_mtime_ns == first
    counts = []
    again = score(folder, pool.folder, top=5, on_part=lambda *count: counts.append(count))
    assert counts == [(4, 4)]
    with (pool.folder / "top.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == again.top(5).rows.tolist()
    assert float(rows[0]["score"]) == again.top(1).scores[0]
    assert {"name", "predicted", "confidence", "label"} <= set(rows[0])


def test_another_job_in_the_folder_is_refused_by_name(pool, folder, tmp_path):
    files = {path: path.stat().st_mtime_ns for path in pool.folder.rglob("*")}
    other = tfp_bayes.BayesianMLP((4,), 3, seed=1)
    other.save(tmp_path / "other.keras")
    np.save(tmp_path / "x.npy", np.ones((NUM_ROWS, 4)))
    for what, change in {
        "model": {"model": tmp_path / "other.keras"},
        "rows": {"rows": scale.NpyRows(tmp_path / "x.npy", folder / "y.npy")},
        "seed": {"seed": SEED + 1},
        "num_samples": {"num_samples": S + 1},
        "acquisition": {"acquisition": "max_entropy"},
        "rows_per_part": {"rows_per_part": 63},
    }.items():
        given = {
            "model": folder / "model.keras",
            "rows": scale.NpyRows(folder / "x.npy", folder / "y.npy"),
            **{"seed": SEED, "num_samples": S, "rows_per_part": 64},
            **change,
        }
        with pytest.raises(ValueError, match=f"Received: {what}=.*was.*use another folder"):
            scale.score_pool(out=pool.folder, **given)
    assert files == {path: path.stat().st_mtime_ns for path in pool.folder.rglob("*")}


def test_parts_of_other_jobs_and_damaged_ones_are_named(pool, folder, tmp_path):
    whole = score(folder, tmp_path)
    _, second, *_ = whole.parts
    content = second.read_bytes()
    for wrong, message in (
        (content[:-200], f"Expected a part in {second}"),
        (pool.parts[0].read_bytes(), "a part of another job"),
    ):
        (tmp_path / "_SUCCESS").unlink()
        second.write_bytes(wrong)
        with pytest.raises(ValueError, match=re.escape(message)):
            score(folder, tmp_path)
        second.unlink()
        assert score(folder, tmp_path).summary.as_json() == whole.summary.as_json()
    assert second.read_bytes() == content
    columns = read_columns(second)
    columns["score"] = columns["score"] + 1
    record = scale.parts.read_record(second)
    second.write_bytes(scale.parts.to_parquet(columns, record))
    with pytest.raises(ValueError, match="as it was written"):
        whole.verify()


def test_rows_and_models_that_do_not_fit_end_the_run_at_once(folder, tmp_path):
    np.save(tmp_path / "wide.npy", np.ones((9, 5), "float32"))
    np.save(tmp_path / "y.npy", np.array([0, 1, 2, 9]))
    np.save(tmp_path / "x.npy", np.ones((4, 4), "float32"))
    rows = scale.NpyRows(tmp_path / "wide.npy")
    for name in ("model.keras", "served"):
        with pytest.raises(Exception, match=r"(?i)incompatible|shape"):
            scale.score_pool(folder / name, rows, tmp_path / name, num_samples=2)
        assert not list((tmp_path / name / "failed").iterdir())
    labelled = scale.NpyRows(tmp_path / "x.npy", tmp_path / "y.npy")
    with pytest.raises(scale.FailedPartsError, match=r"part 0: ValueError: Expected labels in \[0"):
        scale.score_pool(folder / "model.keras", labelled, tmp_path / "a", num_samples=2)
    diverged = keras.models.load_model(folder / "model.keras")
    diverged.layers[1].kernel.assign(np.full((4, 16), np.nan))
    diverged.export(tmp_path / "diverged")
    with pytest.raises(ValueError, match="Expected finite weights"):
        scale.score_pool(tmp_path / "diverged", labelled, tmp_path / "d", num_samples=2)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).export(tmp_path / "plain")
    with pytest.raises(ValueError, match="signature predict_uncertainty"):
        scale.score_pool(tmp_path / "plain", labelled, tmp_path / "b", num_samples=2)
    for kwargs, message in (
        ({"acquisition": "epig"}, "Expected one of"),
        ({"engine": "dask"}, "for `engine`"),
        ({"workers": 2}, "engine='processes'"),
        ({"gpus_per_worker": 1}, "gpus_per_worker"),
        ({"num_samples": 0}, "num_samples"),
        ({"rows_per_part": 2**25}, "rows_per_part"),
        ({"likelihood": "normal"}, "likelihood"),
    ):
        with pytest.raises(ValueError, match=message):
            score(folder, tmp_path / "c", **kwargs)
    with pytest.raises(ValueError, match=r"inside .*served"):
        score(folder, folder / "served" / "scores", "served")
    with pytest.raises(ValueError, match="row source"):
        scale.score_pool(folder / "model.keras", np.ones((4, 4)), tmp_path / "c")
    with pytest.raises(ValueError, match="a folder without"):
        scale.score_pool(folder, labelled, tmp_path / "c")


def test_a_saved_model_without_variances(folder, tmp_path):
    """The first exports of this library had none."""
    served = tf.saved_model.load(str(folder / "served"))

    class Early(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 4]),
                tf.TensorSpec([], tf.int32),
                tf.TensorSpec([2], tf.int32),
            ]
        )
        def predict_uncertainty(self, x, num_samples, seed):
            found = served.predict_uncertainty(x, num_samples, seed)
            return {k: v for k, v in found.items() if not k.endswith("_variance")}

    early = Early()
    early.served = served  # its weights are saved too
    tf.saved_model.save(early, str(tmp_path / "early"))
    rows = scale.NpyRows(folder / "x.npy")
    pool, new = (
        scale.score_pool(
            model, rows, tmp_path / "scores" / model.name, num_samples=2, acquisition="margin"
        )
        for model in (tmp_path / "early", folder / "served")
    )
    np.testing.assert_array_equal(column(pool, "score"), column(new, "score"))
    with pytest.raises(ValueError, match="which an earlier release exported"):
        scale.score_pool(
            tmp_path / "early", rows, tmp_path / "b", num_samples=2, acquisition="mean_std"
        )


def test_regression_and_other_scores(folder, tmp_path):
    inputs = keras.Input((4,))
    hidden = tfp_bayes.layers.MCDropout(0.5)(keras.layers.Dense(8, "relu")(inputs))
    model = tfp_bayes.BayesianModel(
        inputs, tfp_bayes.layers.NormalParameters(2)(hidden), likelihood="normal"
    )
    model.save(tmp_path / "model.keras")
    rows = scale.NpyRows(folder / "x.npy")
    pool = scale.score_pool(
        tmp_path / "model.keras",
        rows,
        tmp_path / "scores",
        num_samples=S,
        acquisition="predictive_variance",
    )
    p = model.predict_uncertainty(rows[np.arange(NUM_ROWS)], S, seed=0)
    assert np.array_equal(column(pool, "score"), p.variance.sum(-1), equal_nan=True)
    assert "predicted" not in pool.read([0])
    labelled = scale.NpyRows(folder / "x.npy", folder / "y.npy")
    with pytest.raises(ValueError, match="exclusive classes"):
        scale.score_pool(tmp_path / "model.keras", labelled, tmp_path / "b", num_samples=S)
    with pytest.raises(ValueError, match="margin"):
        scale.score_pool(
            tmp_path / "model.keras", rows, tmp_path / "c", num_samples=S, acquisition="margin"
        )


def test_the_command_scores_and_says_what_is_wrong(pool, folder, tmp_path, capsys):
    command = ["score", str(folder / "served"), str(folder / "x.npy"), "--out", str(tmp_path / "a")]
    given = ["--num-samples", str(S), "--seed", str(SEED), "--labels", str(folder / "y.npy")]
    assert main([*command, *given]) == 0
    printed = capsys.readouterr().out
    assert f"{NUM_ROWS} rows, 2 of them without finite scores" in printed
    assert f"accuracy {pool.summary.accuracy:.2%}" in printed
    record = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert record["summary"] == pool.summary.as_json()
    assert main([*command, *given, "--seed", "9"]) == 1
    assert "Received: seed=9 (was 3)" in capsys.readouterr().err
    assert main([*command, "--image-size", "9"]) == 1
    assert "--image-size" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", x=np.ones(3))
    assert main(["score", str(folder / "served"), str(tmp_path / "x.npz"), "--out", "b"]) == 1
    assert "np.save(" in capsys.readouterr().err


def test_images_of_a_folder_and_one_that_cannot_be_read(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for i in range(5):
        pixels = rng.integers(0, 256, (8, 6, 3), dtype="uint8")
        name = f"more/{i}.png" if i % 2 else f"{i}.png"
        PIL.Image.fromarray(pixels).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    inputs = keras.Input((8, 6, 3))
    hidden = tfp_bayes.layers.MCDropout(0.5)(keras.layers.Flatten()(inputs))
    model = tfp_bayes.BayesianModel(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    model.save(tmp_path / "model.keras")
    rows = scale.ImageFolder(tmp_path / "photos", (8, 6), 3, divide_by=255.0)
    with pytest.raises(scale.FailedPartsError, match=r"part 0: .*bad.png"):
        scale.score_pool(tmp_path / "model.keras", rows, tmp_path / "a", num_samples=3)
    rows = scale.ImageFolder(tmp_path / "photos", divide_by=255.0, skip_bad=True)
    pool = scale.score_pool(tmp_path / "model.keras", rows, tmp_path / "b", num_samples=3)
    assert pool.summary.num_non_finite == 1
    names = rows.names(np.arange(6))
    assert names == ["0.png", "2.png", "4.png", "bad.png", "more/1.png", "more/3.png"]
    (alone,) = np.flatnonzero(column(pool, "predicted") == -1)
    assert names[alone] == "bad.png"
    image = np.asarray(PIL.Image.open(tmp_path / "photos" / "more/3.png")) / np.float32(255)
    p = model.predict_uncertainty(image[None], 3, seed=0)
    assert np.array_equal(pool.read([5])["mean"], p.mean)


def test_integer_inputs_of_a_saved_model(tmp_path):
    """A cast to integers would turn pixels from 0 to 1, and rows that are not finite, into 0."""
    inputs = keras.Input((4,), dtype="uint8")
    hidden = tfp_bayes.layers.MCDropout(0.5)(keras.layers.Rescaling(1 / 255)(inputs))
    model = tfp_bayes.BayesianModel(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    model.export(tmp_path / "served")
    x = np.random.default_rng(0).integers(0, 256, (5, 4)).astype("float32")
    x[1, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "scaled.npy", x / 255)
    served = tmp_path / "served"
    pool = scale.score_pool(
        served, scale.NpyRows(tmp_path / "x.npy"), tmp_path / "a", num_samples=3
    )
    p = model.predict_uncertainty(x, 3, seed=0)
    assert np.array_equal(column(pool, "mean"), p.mean, equal_nan=True)
    assert pool.summary.num_non_finite == 1
    rows = scale.NpyRows(tmp_path / "scaled.npy")
    with pytest.raises(scale.FailedPartsError, match=r"integers from 0 to 255 .*float32 from 0"):
        scale.score_pool(served, rows, tmp_path / "b", num_samples=3)
