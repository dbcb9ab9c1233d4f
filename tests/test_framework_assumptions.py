"""Tests of behavior of TensorFlow and Keras that the design relies on and upgrades may change."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes._plumbing import keras_internals
from tfp_bayes.prediction.inputs import ROWS


def graph():
    inputs = keras.Input((4,))
    a = keras.layers.Dense(5)(inputs)
    b = keras.layers.Dropout(0.5)(a)
    outputs = keras.layers.Dense(2)(keras.layers.Add()([a, b]))
    return keras.Model(inputs, outputs), a


def test_functions_run_between_any_tensors_of_a_graph():
    model, a = graph()
    prefix = keras.Function(model.inputs, [a])
    suffix = keras.Function([a], model.outputs)
    x = np.ones((3, 4), "float32")
    np.testing.assert_allclose(suffix(prefix([x]))[0], model(x), atol=1e-6)
    # Neither adds calls to the layers shared with the model.
    assert {len(layer._inbound_nodes) for layer in model.layers} == {1}


def test_a_function_replaces_operations_as_it_runs():
    model, a = graph()
    suffix = keras.Function([a], model.outputs)
    ran = []
    suffix._run_through_graph([np.ones((1, 5), "float32")], lambda op: ran.append(op.name) or op)
    assert [name.split("_")[0] for name in ran] == ["dropout", "add", "dense"]


def test_stateless_scope_sets_seeds_and_weights_and_leaves_no_trace():
    generator = keras.random.SeedGenerator(3)
    dense = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
    dense.build((None, 2))
    before = generator.state.numpy().copy()
    with keras.StatelessScope([(generator.state, np.array([8, 9]))]) as scope:
        np.testing.assert_array_equal(generator.next(), [8, 9])
        np.testing.assert_array_equal(generator.next(), [8, 10])
        scope.add_update((dense.kernel, 3 * dense.kernel))
        np.testing.assert_array_equal(dense(np.ones((1, 2))), [[6.0]])
    np.testing.assert_array_equal(generator.state.numpy(), before)
    np.testing.assert_array_equal(dense(np.ones((1, 2))), [[2.0]])


def test_seed_state_is_a_variable_but_not_a_weight():
    layer = keras.layers.Dropout(0.5)
    model = keras.Sequential([keras.Input((2,)), layer])
    assert model.weights == []
    assert [v is layer.seed_generator.state for v in model.variables] == [True]


def test_unseeded_initializers_follow_python_random():
    keras.utils.set_random_seed(1)
    a = keras.layers.Dense(3)
    keras.utils.set_random_seed(1)
    b = keras.layers.Dense(3)
    a.build((None, 2))
    b.build((None, 2))
    np.testing.assert_array_equal(a.kernel, b.kernel)


def test_whole_blocks_make_matrix_products_independent_of_the_rows():
    rng = np.random.default_rng(0)
    x, w = (tf.constant(rng.normal(size=s).astype("float32")) for s in [(240, 3872), (3872, 128)])
    whole = tf.matmul(x, w).numpy()
    for rows in (ROWS, 2 * ROWS, 3 * ROWS):
        np.testing.assert_array_equal(tf.matmul(x[:rows], w), whole[:rows])


def test_own_arguments_of_a_functional_subclass_are_keyword_only():
    # Otherwise Keras would not treat this as a functional constructor and would not save the graph.
    class Own(keras.Model):
        @keras_internals.functional_constructor
        def __init__(self, inputs, outputs, name=None, *, scale=1.0, **kwargs):
            super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)

    inputs = keras.Input((2,))
    config = Own(inputs, keras.layers.Dense(1)(inputs)).get_config()
    assert [layer["class_name"] for layer in config["layers"]] == ["InputLayer", "Dense"]


def test_which_models_run_their_graph():
    class Flipped(keras.Model):
        def call(self, inputs, training=None):
            return -super().call(inputs, training=training)

    class Named(keras.Model):
        def __init__(self):
            model, _ = graph()
            super().__init__(model.inputs, model.outputs)

    model, _ = graph()
    sequential = keras.Sequential([keras.layers.Dense(2)])
    assert keras_internals.has_graph(model)
    assert keras_internals.has_graph(Named())
    assert not keras_internals.has_graph(sequential)  # no inputs yet
    sequential.build((None, 3))
    assert keras_internals.has_graph(sequential)
    assert not keras_internals.has_graph(Flipped(model.inputs, model.outputs))
    assert not keras_internals.has_graph(model.layers[1])


def test_operations_of_a_graph_are_copied_by_their_attributes():
    inputs = keras.Input((4,), name="features")
    outputs = keras.ops.concatenate([2.0 * inputs[:, ::2], inputs - 1], axis=-1)
    model = keras.Model(inputs, outputs)
    new = keras.Input((4,))
    y = keras_internals.run_graph(model, new, keras_internals.copy_operation)
    copy = keras.Model(new, y)
    x = np.arange(8.0).reshape(2, 4)
    expected = np.concatenate([2 * x[:, ::2], x - 1], axis=1)
    np.testing.assert_array_equal(copy(x), expected)
    assert [each.name for each in copy.operations[1:]] == [
        each.name for each in model.operations[1:]
    ]
    assert not {id(each) for each in copy.operations} & {id(each) for each in model.operations}
    assert keras_internals.input_layer(model.inputs[0]).name == "features"
    assert all(len(each._inbound_nodes) == 1 for each in model.operations)


def test_calls_hold_what_layers_are_called_with():
    inputs = keras.Input((4,))
    outputs = keras.layers.Dropout(0.5, name="on")(inputs, training=True)
    outputs = keras.layers.Dropout(0.5, name="off")(outputs)
    for model in (keras.Model(inputs, outputs), keras.Sequential([inputs, keras.layers.ReLU()])):
        training = {each.name: kw.get("training") for each, kw in keras_internals.calls(model)}
        assert training in ({"on": True, "off": False}, {model.layers[-1].name: None})


def test_a_lambda_layer_is_copied_with_its_closure():
    factor = 3.0
    layer = keras.layers.Lambda(lambda x, power: factor * x**power, arguments={"power": 2})
    copy = keras_internals.copy_lambda(layer)
    np.testing.assert_array_equal(copy(np.array([2.0])), [12.0])
    assert (copy.name, copy.function) == (layer.name, layer.function)


def test_clone_model_makes_a_copy_from_the_outputs_of_the_graph_alone():
    class Marking(keras.Model):
        @keras_internals.functional_constructor
        def __init__(self, inputs, outputs, name=None):
            super().__init__(inputs, outputs, name=name)
            self.mark = getattr(keras.tree.flatten(outputs)[0], "mark", None)

        def _run_through_graph(self, inputs, *args, **kwargs):
            outputs = super()._run_through_graph(inputs, *args, **kwargs)
            for tensor in keras.tree.flatten(outputs):
                if keras_internals.has_history(tensor):
                    tensor.mark = "cloned"
            return outputs

    model, _ = graph()
    marking = Marking(model.inputs, model.outputs)
    assert keras_internals.is_functional_like(Marking)
    assert marking.mark is None
    assert keras.models.clone_model(marking).mark == "cloned"
    assert not hasattr(marking(keras.Input((4,))), "mark")


def test_a_graph_is_found_where_keras_runs_one():
    functional, _ = graph()

    class Own(keras.Model):
        def call(self, x):
            return x

    assert keras_internals.graph_of(functional) is functional
    assert (
        keras_internals.graph_of(Own()) is keras_internals.graph_of(keras.layers.Dense(2)) is None
    )
    sequential = keras.Sequential([keras.layers.Dense(2)])
    assert keras_internals.graph_of(sequential) is None  # not built
    sequential.build((None, 3))
    (node,) = keras_internals.graph_nodes(keras_internals.graph_of(sequential))
    assert node.operation is sequential.layers[0]


def test_calls_of_a_graph_are_listed_in_their_order_with_their_mode():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5)(keras.layers.Dropout(0.5)(inputs, training=True))
    nodes = keras_internals.graph_nodes(keras.Model(inputs, x))
    assert [type(node.operation) for node in nodes] == [keras.layers.Dropout, keras.layers.Dense]
    assert nodes[0].arguments.kwargs["training"] is True
    assert nodes[1].input_tensors[0] is nodes[0].outputs[0]


def test_layers_inside_layers_are_listed():
    dropout = keras.layers.Dropout(0.5)
    inner = keras.Sequential([keras.Input((3,)), dropout])
    outer = keras.Sequential([keras.Input((2, 3)), keras.layers.TimeDistributed(inner)])
    assert dropout in keras_internals.flatten_layers(outer)


def test_layers_take_a_mode_that_their_call_does_not_know():
    class Own(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dropout = keras.layers.Dropout(0.5)

        def call(self, x):
            return self.dropout(x)

    x = np.ones((4, 50), "float32")
    np.testing.assert_array_equal(Own()(x, training=False), x)
    assert not np.array_equal(Own()(x, training=True), x)


def test_ranks_of_what_a_layer_is_called_on():
    dropout = keras.layers.Dropout(0.5)
    assert keras_internals.input_ranks(dropout) == set()
    dropout(keras.Input((2,)))
    dropout(keras.Input((3, 2)))
    assert keras_internals.input_ranks(dropout) == {2, 3}


def test_masks_of_time_steps_travel_on_tensors():
    x = keras.layers.Embedding(3, 4, mask_zero=True)(np.array([[1, 2, 0]]))
    outputs = tf.constant([[[1.0], [2.0], [9.0]]])
    keras_internals.copy_timestep_mask(keras.layers.Dense(2), x, outputs)
    np.testing.assert_allclose(keras.layers.GlobalAveragePooling1D()(outputs), [[1.5]])


def test_recurrent_cells_use_the_masks_that_they_are_given():
    x = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    h = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    for cell, states in (
        (keras.layers.LSTMCell(4, dropout=0.5, recurrent_dropout=0.5), [h, h]),
        (keras.layers.GRUCell(4, dropout=0.5, recurrent_dropout=0.5), [h]),
    ):
        plain = type(cell)(4)
        plain.build(x.shape)
        cell.build(x.shape)
        cell.set_weights(plain.get_weights())
        count = keras_internals.num_dropout_masks(cell)
        assert count == cell.kernel.shape[1] // 4
        assert keras_internals.num_dropout_masks(plain) is None
        ones = tf.ones((1, 4))
        # Every gate has the same masks, which keep one input and the whole state.
        keras_internals.set_dropout_masks(cell, [tf.constant([[0.0, 2.0]])] * count, [ones] * count)
        y, _ = cell(x, states, training=True)
        np.testing.assert_allclose(y, plain(x * np.float32([0, 2]), states)[0], atol=1e-6)


def test_layers_ask_for_weights_by_name():
    for layer, shape in (
        (keras.layers.LSTMCell(4), (None, 3)),
        (keras.layers.GRUCell(4, reset_after=False), (None, 3)),
        (keras.layers.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de"), (None, 6, 3)),
    ):
        asked = keras_internals.requested_weights(layer, shape)
        assert layer.weights == []
        plain = type(layer).from_config(layer.get_config())
        plain.build(shape)
        made = {weight.name: tuple(weight.shape) for weight in plain.weights}
        assert {name: shape for name, (shape, _) in asked.items()} == made
        assert layer.built


def test_both_directions_of_a_recurrent_layer_are_called():
    # Some backends have a fused function that reads the weights of both cells instead.
    for name in ("bidirectional_lstm", "bidirectional_gru"):
        with pytest.raises(NotImplementedError):
            getattr(keras.src.backend, name)()


def test_parts_of_attention_are_replaced():
    class Doubled(keras.layers.MultiHeadAttention):
        def build(self, query_shape, value_shape, key_shape=None):
            super().build(query_shape, value_shape, key_shape)
            keras_internals.replace_projections(self, self.double)
            keras_internals.replace_attention_dropout(self, keras.layers.ReLU(name="new"))

        def double(self, plain):
            new = type(plain).from_config(plain.get_config())
            new.build(plain.get_build_config()["input_shape"])
            new.kernel.assign(2 * plain.kernel)
            self.replaced = [*getattr(self, "replaced", []), plain.name]
            return new

    layer = Doubled(2, 3, dropout=0.1)
    x = np.ones((1, 4, 6), "float32")
    assert layer(x, x).shape == (1, 4, 6)
    assert layer.replaced == ["query", "key", "value", "attention_output"]
    inside = keras_internals.flatten_layers(layer)[1:]
    names = [each.name for each in inside if not isinstance(each, keras.layers.Softmax)]
    assert sorted(names) == sorted(["new", *layer.replaced])  # the old parts are gone
    assert len(layer.weights) == 8


def test_a_call_in_progress_has_a_context_with_its_mode():
    seen = []

    class Own(keras.layers.Layer):
        def call(self, x):
            seen.append((keras_internals.current_call(), keras_internals.is_training_call()))
            return x

    inputs = keras.Input((2,))
    model = keras.Model(inputs, Own()(Own()(inputs)))
    seen.clear()
    model(np.ones((1, 2)), training=True)
    model(np.ones((1, 2)))
    contexts, training = zip(*seen)
    assert contexts[0] is contexts[1] is not contexts[2]
    assert training == (True, True, False, False)
    assert keras_internals.current_call() is None
    assert not keras_internals.is_training_call()


def test_losses_of_layers_begin_anew_with_each_outermost_call():
    class Own(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.sum(x))
            return x

    inputs = keras.Input((2,))
    model = keras.Model(inputs, Own()(inputs))
    for _ in range(2):
        model(np.ones((1, 2)))
        assert [float(loss) for loss in model.losses] == [2.0]


def test_compiled_losses_are_found_and_replaced():
    inputs = keras.Input((2,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"a": "mse", "b": None}, loss_weights={"a": 3.0, "b": 1.0})
    called = []

    def substitute(loss, weight):
        called.append((loss.fn.__name__, weight))
        return lambda y, y_pred, sample_weight=None: tf.constant(5.0)

    compiled = keras_internals.compiled_loss(model)
    keras_internals.set_compiled_loss(model, keras_internals.CompiledLosses(compiled, substitute))
    x = np.ones((3, 2))
    assert model.evaluate(x, {"a": x[:, :1], "b": x[:, :1]}, verbose=0) == 15.0
    assert called == [("mean_squared_error", 3.0)]
    assert keras_internals.compiled_loss(keras.Model(inputs, outputs)) is None


def test_losses_and_metrics_are_chosen_by_the_shapes_of_targets():
    inputs = keras.Input((2,))
    outputs = [keras.layers.Dense(n, name=name)(inputs) for n, name in ((3, "a"), (1, "b"))]
    model = keras.Model(inputs, outputs)
    losses = ["sparse_categorical_crossentropy", "mse"]
    model.compile("sgd", losses, metrics=[["accuracy"], ["mae"]])
    keras_internals.build_losses_and_metrics(model, None)  # targets in a generator
    keras_internals.build_losses_and_metrics(model, np.zeros(4))  # Keras will refuse them
    assert not keras_internals.compiled_loss(model).built
    keras_internals.build_losses_and_metrics(model, [np.zeros(4), tf.TensorSpec([None, 1])])
    before = [id(v) for metric in model.metrics for v in metric.variables]
    model.fit(np.zeros((4, 2)), [np.zeros(4), np.zeros((4, 1))], verbose=0)
    assert [id(v) for metric in model.metrics for v in metric.variables] == before
    names = {"loss", "a_loss", "b_loss", "a_accuracy", "b_mae"}
    assert {*model.get_metrics_result()} == names


def test_metrics_see_a_view_of_their_output():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, [keras.layers.Identity(name=name)(inputs) for name in ("a", "b")])
    model.compile("sgd", ["mse", "mse"], metrics=[["mae"], ["mae"]])
    x = tf.ones([3, 2])
    views = [None, lambda metric, y, y_pred: (y, y_pred + 4)]
    for _ in range(2):
        keras_internals.view_metrics(model, [x, x], [x, x], views)
    model.compute_metrics(x, [x, x], [x, x])
    results = model.get_metrics_result()
    assert (results["a_mae"], results["b_mae"]) == (0.0, 4.0)
    keras_internals.view_metrics(graph()[0], x, x, [None])  # not compiled


def test_masks_are_set_on_tensors_and_known_in_the_graph():
    tensor = tf.ones([1, 2, 3])
    assert keras_internals.timestep_mask(tensor) is None
    keras_internals.set_timestep_mask(tensor, tf.constant([[True, False]]))
    assert keras_internals.timestep_mask(tensor).numpy().tolist() == [[True, False]]
    inputs = keras.Input((7,), dtype="int32")
    for zeros, known in ((True, True), (False, False)):
        x = keras.layers.Dense(3)(keras.layers.Embedding(9, 4, mask_zero=zeros)(inputs))
        (output,) = keras.Model(inputs, x).outputs
        assert (keras_internals.timestep_mask(output) is not None) is known


def test_a_dataset_shows_what_it_is_made_from():
    repeated = tf.data.Dataset.range(10).repeat(3)
    (inner,) = repeated.batch(2)._inputs()
    assert (type(inner).__name__, int(inner._count)) == ("_RepeatDataset", 3)


def test_attention_takes_the_masks_off_its_inputs():
    x = keras.layers.Embedding(3, 4, mask_zero=True)(np.array([[1, 2, 0]]))
    mask = keras_internals.timestep_mask(x)
    attention = keras.layers.MultiHeadAttention(1, 2)
    first = attention(x, x)
    assert keras_internals.timestep_mask(x) is None
    keras_internals.set_timestep_mask(x, mask)
    np.testing.assert_array_equal(attention(x, x), first)


@pytest.mark.parametrize("reduce", [keras.ops.mean, keras.ops.sum])
def test_sums_in_a_graph_know_their_axes(reduce):
    operation = reduce(keras.Input((2, 3, 4)), axis=(1, 2), keepdims=True)._keras_history.operation
    assert keras_internals.is_sum(operation)
    assert (list(operation.axis), operation.keepdims) == ([1, 2], True)
    whole = reduce(keras.Input((2,)), axis=1)._keras_history.operation
    assert (list(whole.axis), whole.keepdims) == ([1], False)


def test_two_backward_passes_are_one_forward_mode_derivative_in_a_served_loop(tmp_path):
    # The derivative of J^T u with respect to u, contracted with d, is J d. It works in an export.
    layers = [
        keras.layers.Conv2D(3, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(2, activation="tanh"),
    ]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype("float32")
    weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    directions = [tf.ones_like(w) for w in weights]

    def run(given):
        with keras.StatelessScope(list(zip(model.trainable_variables, given))):
            return model(x, training=False)

    def derivative(s):
        given = [tf.identity(v) for v in model.trainable_variables]
        outputs = run(given)
        u = tf.zeros_like(outputs)
        scaled = [tf.cast(s, tf.float32) * d for d in directions]
        return tf.gradients(tf.gradients(outputs, given, grad_ys=u), u, grad_ys=scaled)[0]

    def total(num_samples):
        step = lambda s, so_far: (s + 1, so_far + derivative(s))  # noqa: E731
        return tf.while_loop(lambda s, _: s <= num_samples, step, (1, tf.zeros([4, 2])))[1]

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("total", total, [tf.TensorSpec([], tf.int32)])
    archive.write_out(tmp_path / "served", verbose=False)
    with tf.autodiff.ForwardAccumulator(weights, directions) as forward:
        expected = forward.jvp(run(weights))
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.total(3), 6 * expected, rtol=1e-5, atol=1e-5)


def test_layers_that_a_functional_model_is_given_are_tracked():
    # Keras 3.14 lost them, so the head of a basis regression was neither saved nor reinitialized.
    class Model(keras.Model):
        def __init__(self, inputs, outputs):
            super().__init__(inputs, outputs)
            self.beside = keras.layers.Dense(2)
            self.beside.build((None, 3))

    inputs = keras.Input((3,))
    assert len(Model(inputs, keras.layers.ReLU()(inputs)).trainable_variables) == 2
