"""Tests of the weight of the prior, the number of examples, evaluation and saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, mlp, vectors

import tfp_bayes
from tfp_bayes import metrics
from tfp_bayes.layers import MCDropout
from tfp_bayes.models.num_train import count_examples

X, Y = vectors(30), np.arange(30) % 3


def compiled(**kwargs):
    model = bayesian_mlp(**{"num_samples": 7, **kwargs})
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def linear(prior_scale, **kwargs):
    """Softmax regression without random layers, whose loss has a closed form."""
    inputs = keras.Input((5,))
    outputs = keras.layers.Dense(3, activation="softmax")(inputs)
    model = tfp_bayes.BayesianModel(
        inputs, outputs, prior_scale=prior_scale, num_samples=1, **kwargs
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


# The weight of the prior.


def test_loss_is_nll_plus_kl_over_num_train():
    model = linear(prior_scale=0.5)
    kernel, _ = model.layers[1].get_weights()
    nll = metrics.nll(Y, model(X).numpy())
    kl = (kernel.astype("float64") ** 2).sum() / (2 * 0.5**2)
    history = model.fit(X, Y, batch_size=30, verbose=0).history
    assert history["nll"][0] == pytest.approx(nll, rel=1e-5)
    assert history["kl"][0] == pytest.approx(kl, rel=1e-5)
    assert history["loss"][0] == pytest.approx(nll + kl / 30, rel=1e-5)
    assert float(model.kl_weight) == pytest.approx(1 / 30)


def test_gaussian_prior_equals_l2():
    """Training gives the same weights as Keras' L2 penalty with the factor 1 / (2 s^2 N)."""
    bayesian = linear(prior_scale=0.3)
    l2 = keras.regularizers.L2(1 / (2 * 0.3**2 * 30))
    plain = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(3, activation="softmax", kernel_regularizer=l2)]
    )
    plain.compile("sgd", "sparse_categorical_crossentropy")
    plain.layers[0].set_weights(bayesian.layers[1].get_weights())
    for model in (bayesian, plain):
        model.fit(X, Y, batch_size=10, epochs=3, shuffle=False, verbose=0)
    for a, b in zip(bayesian.layers[1].get_weights(), plain.layers[0].get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_prior_covers_every_kernel_and_no_bias():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.SeparableConv2D(4, 3, bias_initializer="ones")(inputs)
    x = keras.layers.Conv2D(4, 3, bias_initializer="ones")(x)
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(MCDropout(0.5)(x)))
    model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=2.0)
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    assert len(kernels) == 4
    factors = [1, 1, 1, 2]  # 1 / (1 - p) for the kernel after dropout
    expected = sum(f * (w**2).sum() for f, w in zip(factors, kernels)) / 8
    assert float(model.kl_divergence()) == pytest.approx(expected, rel=1e-5)


def test_flat_prior_adds_nothing():
    history = linear(prior_scale=None).fit(X, Y, batch_size=30, verbose=0).history
    assert history["loss"] == history["nll"]


def test_growing_data_changes_the_weight_without_a_retrace():
    model = compiled(prior_scale=0.1)
    model.fit(X, Y, verbose=0)
    function, steps = model.train_function, []
    train_step = model.train_step
    model.train_step = lambda data: steps.append(1) or train_step(data)  # called once per trace
    kl = model.fit(X[:10], Y[:10], batch_size=10, verbose=0).history
    assert model.num_train == 10
    assert kl["loss"][0] == pytest.approx(kl["nll"][0] + kl["kl"][0] / 10, rel=1e-4)
    assert model.train_function is function
    assert not steps


def test_kl_is_counted_once_under_a_strategy(two_replicas):
    """An SGD step on two logical CPU devices gives the same weights as on one device."""
    with two_replicas.scope():
        mirrored = linear(prior_scale=0.2)
    single = linear(prior_scale=0.2)
    single.set_weights(mirrored.get_weights())
    for model in (mirrored, single):
        history = model.fit(X, Y, batch_size=30, shuffle=False, verbose=0).history
        assert history["loss"][0] == pytest.approx(
            history["nll"][0] + history["kl"][0] / 30, rel=1e-5
        )
    for a, b in zip(mirrored.layers[1].get_weights(), single.layers[1].get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)


class Traced(tfp_bayes.BayesianModel):
    """Counts how often its step is traced."""

    num_traces = 0

    def train_step(self, data):
        self.num_traces += 1
        return super().train_step(data)


@pytest.mark.parametrize("source", ["arrays", "dataset"])
def test_first_step_is_traced_once(source):
    inputs = keras.Input((5,))
    label = keras.layers.Dense(3, activation="softmax", name="label")(inputs)
    flag = keras.layers.Dense(1, activation="sigmoid", name="flag")(MCDropout(0.5)(inputs))
    likelihood = {"label": "categorical", "flag": "bernoulli"}
    model = Traced(inputs, {"label": label, "flag": flag}, likelihood=likelihood, prior_scale=1.0)
    losses = {"label": "sparse_categorical_crossentropy", "flag": "binary_crossentropy"}
    chosen = {"label": ["accuracy"], "flag": ["accuracy", "auc"]}
    model.compile("adam", losses, metrics=chosen)
    y = {"label": Y, "flag": (Y > 0)[:, None]}
    data = (X, y) if source == "arrays" else (tf.data.Dataset.from_tensor_slices((X, y)).batch(10),)
    model.fit(*data, batch_size=10, verbose=0)
    assert model.num_traces == 1
    results = model.evaluate(*data, return_dict=True, verbose=0)
    mean = model.predict(X, verbose=0)
    assert results["label_accuracy"] == pytest.approx(np.mean(mean["label"].argmax(-1) == Y))
    assert results["flag_accuracy"] == pytest.approx(np.mean((mean["flag"] > 0.5) == y["flag"]))
    assert "flag_auc" in results


# The number of examples.


class Batches(keras.utils.PyDataset):
    def __init__(self, sizes=(8, 8, 8, 6)):
        super().__init__()
        self.ends = np.cumsum([0, *sizes])

    def __len__(self):
        return len(self.ends) - 1

    def __getitem__(self, i):
        rows = np.arange(self.ends[i], self.ends[i + 1]) % len(X)
        return X[rows], Y[rows]


def test_counts_examples():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    assert count_examples(X) == 30
    assert count_examples({"a": X, "b": X}) == 30
    assert count_examples(dataset.batch(8)) == 30
    assert count_examples(dataset.batch(8, drop_remainder=True)) == 24
    assert count_examples(dataset.repeat().batch(8)) is None
    assert count_examples(dataset.filter(lambda x, y: y > 0).batch(8)) is None
    assert count_examples(Batches()) == 30
    assert count_examples(Batches([7])) == 7
    assert count_examples(Batches([4] * 9 + [9])) == 45  # Keras allows a last batch of any size
    assert count_examples(Batches([2, 9, 9, 9, 9, 2])) is None
    assert count_examples(batch for batch in [(X, Y)]) is None


def test_repeated_examples_count_once():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    assert count_examples(dataset.shuffle(9).repeat(10).batch(8).prefetch(1)) == 30
    assert count_examples(dataset.batch(8).repeat(2).map(lambda x, y: (x, y)).repeat(3)) == 30
    both = [dataset.map(lambda *pair, i=i: pair[i]).repeat(4) for i in (0, 1)]
    assert count_examples(tf.data.Dataset.zip(*both).batch(5)) == 30
    # Examples repeated in part may be meant to have more weight, so the user must decide.
    assert count_examples(dataset.concatenate(dataset.repeat(2)).batch(8)) is None
    assert count_examples(dataset.repeat(2).take(40).batch(8)) is None
    assert count_examples(dataset.repeat().take(40).batch(8)) is None
    assert count_examples(dataset.take(20).repeat(2).batch(8)) == 20
    model = compiled(prior_scale=1.0)
    model.fit(dataset.repeat(3).batch(30), verbose=0)
    assert model.num_train == 30


@pytest.mark.parametrize("split", [0.0, 0.1, 0.25, 1 / 3])
def test_validation_split_does_not_count(split):
    model = compiled(prior_scale=1.0)
    sizes = []
    model.fit(
        X,
        Y,
        batch_size=1,
        validation_split=split,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: sizes.append(1))
        ],
    )
    assert model.num_train == len(sizes)


def test_unknown_number_of_examples_is_asked_for():
    model = compiled(prior_scale=1.0)
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).repeat().batch(10)
    with pytest.raises(ValueError, match=r"Hint: fit\(x, num_train="):
        model.fit(endless, steps_per_epoch=2, verbose=0)
    for wrong in (0, -30, 0.5):
        with pytest.raises(ValueError, match=f"Received: num_train={wrong}"):
            model.fit(endless, steps_per_epoch=2, num_train=wrong, verbose=0)
    model.fit(endless, steps_per_epoch=2, num_train=30, verbose=0)
    assert model.num_train == 30
    with pytest.raises(ValueError, match="set_kl_weight"):
        compiled(prior_scale=1.0).train_on_batch(X, Y)
    assert compiled(prior_scale=None).train_on_batch(X, Y)


# Evaluation.


def test_evaluate_and_validation_score_the_predictive_mean():
    model = compiled(prior_scale=1.0)
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert not {"val_kl", "val_nll", "val_penalty", "penalty"} & set(history)
    mean = model.predict(X, verbose=0)
    np.testing.assert_array_equal(mean, model.predict_uncertainty(X, 7, seed=0).mean)
    nll, accuracy = metrics.nll(Y, mean), metrics.accuracy(Y, mean)
    for batch_size in (None, 4, 30):
        results = model.evaluate(X, Y, batch_size, verbose=0, return_dict=True)
        assert results["loss"] == pytest.approx(nll, abs=1e-5)
        assert set(results) == {"loss", "accuracy"}
        assert results["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert history["val_loss"][0] == pytest.approx(nll, abs=1e-5)
    assert history["val_accuracy"][0] == pytest.approx(accuracy, abs=1e-6)


def test_predict_takes_every_source():
    model = compiled()
    mean = model.predict(X, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(7)
    np.testing.assert_array_equal(mean, model.predict(dataset, verbose=0))
    np.testing.assert_array_equal(mean, model.predict(Batches(), verbose=0))
    np.testing.assert_array_equal(mean, model.predict(X, batch_size=1, verbose=0))
    np.testing.assert_array_equal(mean, model.predict(X, num_samples=model.num_samples))
    assert not np.array_equal(mean, model.predict(X, num_samples=model.num_samples + 1))


def test_another_number_of_samples_counts_from_the_next_prediction():
    model = compiled()
    before = model.predict(X, verbose=0), model.evaluate(X, Y, verbose=0)
    model.num_samples = 2
    expected = model.predict(X, num_samples=2)
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected)
    assert not np.array_equal(expected, before[0])
    assert model.evaluate(X, Y, verbose=0) != before[1]


def test_another_prior_scale_counts_from_the_next_fit():
    model = compiled(prior_scale=1.0)
    model.optimizer.learning_rate = 0.0
    before, after = [], []
    for history in (before, after):
        history += model.fit(X, Y, verbose=0).history["kl"]
        model.prior_scale = 0.5
    assert after[0] == pytest.approx(4 * before[0], rel=1e-5)


def test_prediction_does_not_disturb_training():
    def trained(predict):
        keras.utils.set_random_seed(0)
        model = compiled(prior_scale=1.0)
        for _ in range(2):
            model.fit(X, Y, verbose=0)
            if predict:
                model.predict(X, verbose=0)
                model.evaluate(X, Y, verbose=0)
                model.predict_uncertainty(X, 3, seed=4)
        return model.get_weights()

    for a, b in zip(trained(True), trained(False)):
        np.testing.assert_array_equal(a, b)


def test_layers_with_one_seed_train_with_different_noise():
    inputs = keras.Input((1000,))
    first, second = MCDropout(0.5, seed=1), MCDropout(0.5, seed=1)
    tfp_bayes.BayesianModel(
        inputs, [first(inputs), second(inputs)], likelihood="bernoulli", prior_scale=1.0
    )
    x = np.ones((1, 1000), "float32")
    assert 0.4 < np.mean(first(x, training=True) == second(x, training=True)) < 0.6


# Saving.


def test_saved_by_value(tmp_path):
    model = compiled(prior_scale=0.7)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is tfp_bayes.BayesianModel
    assert (loaded.prior_scale, loaded.num_samples, loaded.likelihood) == (0.7, 7, "categorical")
    assert float(loaded.kl_weight) == pytest.approx(1 / 30)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    loaded.train_on_batch(X, Y)  # the weight of the prior was loaded


def test_mixed_precision_keeps_the_kl_finite():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((400,))
        hidden = MCDropout(0.5)(keras.layers.Dense(400, kernel_initializer="ones")(inputs))
        outputs = keras.layers.Dense(3, activation="softmax", dtype="float32")(hidden)
        model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=0.1)
    finally:
        keras.config.set_dtype_policy("float32")
    kernel = model.layers[-1].get_weights()[0]
    expected = (160_000 + 2 * (kernel**2).sum()) / 0.02  # overflows float16, whose largest is 65504
    assert float(model.kl_divergence()) == pytest.approx(expected, rel=1e-5)


def test_bad_arguments():
    for prior_scale in (0, -1.0):
        with pytest.raises(ValueError, match=f"prior_scale={prior_scale}"):
            bayesian_mlp(prior_scale=prior_scale)
    with pytest.raises(ValueError, match="num_samples=0"):
        bayesian_mlp(num_samples=0)
    with pytest.raises(ValueError, match="likelihood='softmax'"):
        bayesian_mlp(likelihood="softmax")


def test_class_weight_needs_one_label_an_example():
    inputs = keras.Input((7, 3))
    outputs = keras.layers.Dense(4, "softmax")(MCDropout(0.5)(inputs))
    model = tfp_bayes.BayesianModel(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.ones((5, 7, 3)), np.zeros((5, 7), "int32")
    with pytest.raises(ValueError, match="Expected one label per example with `class_weight`"):
        model.fit(x, y, class_weight={0: 2.0, 1: 1.0}, verbose=0)
    model.fit(x, y, sample_weight=np.ones((5, 7)), verbose=0)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_class_weight_needs_classes(likelihood):
    """Keras would weight several zeros and ones by the position of a one, and round numbers."""
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(4, "sigmoid")(MCDropout(0.5)(inputs))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood=likelihood)
    losses = {"bernoulli": "binary_crossentropy", "normal": tfp_bayes.losses.NormalNLL()}
    model.compile("adam", losses[likelihood])
    x, y = np.ones((5, 3)), np.ones((5, 4 if likelihood == "bernoulli" else 2))
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="Expected one label per example with `class_weight`"):
            train(x, y, class_weight={0: 2.0, 1: 1.0})


def test_inputs_that_are_not_finite_are_named_before_relu_hides_them():
    model = compiled()
    for value in (np.nan, np.inf):
        x = X.copy()
        x[[3, 7], 0] = value
        with pytest.raises(ValueError, match=r"infinity in the examples \[3, 7\], 2 of the 30"):
            model.fit(x, Y, verbose=0)


def test_a_list_of_one_output_is_that_output(tmp_path):
    plain = mlp()
    model = tfp_bayes.BayesianModel(plain.inputs, plain.outputs, num_samples=3)
    assert model.predict_uncertainty(X).mean.shape == (30, 3)
    model.export(tmp_path / "served")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
