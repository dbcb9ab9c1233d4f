"""A learner whose pool is scored in parts acquires the same examples as without a scorer."""

import functools

import keras
import numpy as np
import pytest

import tfp_bayes
from tfp_bayes import inference, scale
from tfp_bayes.active import Query
from tfp_bayes.inference.refitted import Refitted

pytest.importorskip("pyarrow")
NUM_ROWS = 60


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "x.npy"
    np.save(path, 3 * np.random.default_rng(0).normal(size=(NUM_ROWS, 4)).astype("float32"))
    return scale.NpyRows(path)


@pytest.fixture(scope="module")
def labels(rows):
    return (rows[np.arange(NUM_ROWS)][:, 0] > 0).astype(int)


def new_model(inference="mc_dropout"):
    keras.utils.set_random_seed(0)
    model = tfp_bayes.BayesianMLP((4,), 2, max_pixel=1, inference=inference, seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


used_model = functools.cache(new_model)  # traced once for all tests; learners reset it in place


def make(rows, labels, checkpoint=None, refit=None, model=None, **query):
    return tfp_bayes.ActiveLearner(
        model or used_model(),
        rows,
        labels,
        initial=range(4),
        query={"size": 3, "num_samples": 4, "ignore": [50, 51], **query},
        refit={"steps": 4} if refit is None else refit,
        checkpoint=checkpoint,
    )


def scorer(rows, folder, **arguments):
    return scale.PoolScorer(rows, folder, engine="local", rows_per_part=25, **arguments)


@pytest.fixture(scope="module")
def alone(rows, labels):
    """The learner without a scorer, after one round."""
    learner = make(rows, labels)
    learner.run(total_rounds=1)
    return learner


def test_acquires_what_the_learner_acquires_by_itself(rows, labels, tmp_path, alone):
    scored = make(rows, labels, scorer=scorer(rows, tmp_path))
    scored.run(total_rounds=1)
    np.testing.assert_array_equal(scored.pool.labelled, alone.pool.labelled)
    assert len(scored.pool.labelled) == 7
    assert not set(scored.pool.labelled) & {50, 51}
    # The scorer's mean is over the whole pool; without it, the six rows that are not asked for
    # are left out.
    expected = alone.history[-1].pool_uncertainty
    assert scored.history[-1].pool_uncertainty == pytest.approx(expected, rel=0.3)


def test_rows_that_may_not_be_asked_about_are_left_out(rows, tmp_path, alone):
    source, every_row = scorer(rows, tmp_path), np.arange(NUM_ROWS)
    best = source.best(alone.predictor, "bald", every_row, 5, num_samples=4, seed=1)
    p = alone.predictor.predict_uncertainty(rows[every_row], 4, seed=1)
    np.testing.assert_array_equal(best.indices, np.argsort(-p.mutual_information)[:5])
    np.testing.assert_array_equal(best.scores, p.mutual_information[best.indices])
    assert best.uncertainty == pytest.approx(p.mutual_information.mean(), rel=1e-5)
    rest = np.setdiff1d(every_row, best.indices[:3])
    again = source.best(alone.predictor, "bald", rest, 2, num_samples=4, seed=1)
    np.testing.assert_array_equal(again.indices, best.indices[3:])


def test_the_posterior_of_a_round_goes_to_the_workers(rows, labels, tmp_path):
    refit = {"steps": 4, "posterior": inference.Laplace("diagonal")}
    model = new_model("deterministic")
    learner = make(rows, labels, refit=refit, model=model, scorer=scorer(rows, tmp_path))
    learner.run(total_rounds=1)  # the learner compares these scores with its own
    assert len(list(tmp_path.glob("round-*/posterior.npz"))) == 1


def test_other_weights_and_another_posterior_are_scored_anew(rows, labels, tmp_path):
    """Even if seed and network are the same, as in another run in the same folder."""
    x, every_row = rows[np.arange(NUM_ROWS)], np.arange(NUM_ROWS)
    model = tfp_bayes.BayesianMLP(
        (4,), 2, hidden_units=(8,), max_pixel=1, inference="deterministic", seed=0
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    source = scorer(rows, tmp_path)

    def check(model, acquisition, num_samples):
        best = source.best(model, acquisition, every_row, 5, num_samples, seed=1)
        p = model.predict_uncertainty(x, num_samples, seed=1)
        own = p.predictive_entropy if acquisition == "max_entropy" else p.mutual_information
        np.testing.assert_allclose(best.scores, np.sort(own)[:-6:-1], rtol=1e-4)

    for _ in range(2):
        check(model, "max_entropy", 1)
        model.layers[-1].bias.assign([0.0, 1.0])
    refitted = Refitted(model, inference.Laplace("diagonal", prior_scale=1.0), {})
    refitted.fit(x, labels, seed=0)
    for prior_scale in (1.0, 0.2):
        refitted.posterior.set_prior_scale(prior_scale)
        check(refitted, "bald", 4)


def test_a_selector_chooses_among_the_highest_scores(rows, labels, tmp_path):
    learner = make(rows, labels, selector="batch_bald", candidates=6, scorer=scorer(rows, tmp_path))
    learner.run(total_rounds=1)
    (place,) = tmp_path.glob("round-*")
    pool = scale.ScoredPool(place / "scores")
    allowed = [row for row in pool.top(NUM_ROWS).rows if row >= 4 and row not in (50, 51)][:6]
    acquired = learner.pool.labelled[learner.pool.labelled >= 4]
    assert len(acquired) == 3
    assert set(acquired) <= set(allowed)
    assert len(learner.candidate_scores) == 6


def test_a_round_that_was_stopped_goes_on(rows, labels, tmp_path, alone):
    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    stopped = make(
        rows, labels, tmp_path / "c.npz", scorer=scorer(rows, tmp_path / "s", on_part=stop)
    )
    with pytest.raises(KeyboardInterrupt):
        stopped.run(total_rounds=1)
    made = []
    del stopped
    learner = make(
        rows,
        labels,
        tmp_path / "c.npz",
        model=new_model(),
        scorer=scorer(rows, tmp_path / "s", on_part=lambda done, total: made.append(done)),
    )
    learner.run(total_rounds=1)
    assert made == [1, 2, 3]
    np.testing.assert_array_equal(learner.pool.labelled, alone.pool.labelled)


def test_rows_of_another_pool_are_noticed(rows, labels, tmp_path):
    np.save(tmp_path / "x.npy", rows[np.arange(NUM_ROWS)[::-1]])
    others = scale.NpyRows(tmp_path / "x.npy")
    learner = make(rows, labels, acquisition="max_entropy", scorer=scorer(others, tmp_path / "s"))
    with pytest.raises(ValueError, match="must be the learner's `x`"):
        learner.run(total_rounds=1)


def test_a_shorter_pool_and_one_without_finite_rows_are_refused(rows, labels, tmp_path):
    short, empty = tmp_path / "short.npy", tmp_path / "empty.npy"
    np.save(short, rows[np.arange(20)])
    np.save(empty, np.full([NUM_ROWS, 4], np.nan, "float32"))
    for path, message in ((short, "20 rows, and a learner"), (empty, "none for any of 54")):
        learner = make(rows, labels, scorer=scorer(scale.NpyRows(path), tmp_path / path.stem))
        with pytest.raises(ValueError, match=message):
            learner.run(total_rounds=1)


def test_refuses_what_it_cannot_do_before_training(rows, tmp_path):
    with pytest.raises(ValueError, match="Received: num_samples=None"):
        Query(scorer=scorer(rows, tmp_path))
    with pytest.raises(ValueError, match="Received: acquisition='epig'"):
        Query("epig", num_samples=4, scorer=scorer(rows, tmp_path))
    with pytest.raises(ValueError, match="Received: scorer of type str"):
        Query(num_samples=4, scorer="ray")
    with pytest.raises(ValueError, match="Expected a row source"):
        scale.PoolScorer(np.zeros([3, 2]), tmp_path)
    with pytest.raises(ValueError, match="Received: engine='spark'"):
        scale.PoolScorer(rows, tmp_path, engine="spark")
