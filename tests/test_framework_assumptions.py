"""What the design leans on in TensorFlow and Keras, so that an upgrade fails readably."""

import keras
import numpy as np
import tensorflow as tf


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
    # Neither adds calls to the layers that they share with the model.
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


def test_full_vectors_make_matrix_products_independent_of_the_rows():
    rng = np.random.default_rng(0)
    x, w = (tf.constant(rng.normal(size=s).astype("float32")) for s in [(256, 3872), (3872, 128)])
    whole = tf.matmul(x, w).numpy()
    for rows in (16, 32, 48, 128):
        np.testing.assert_array_equal(tf.matmul(x[:rows], w), whole[:rows])


def test_own_arguments_of_a_functional_subclass_are_keyword_only():
    # Only then Keras takes the constructor for that of a functional model, and saves the graph.
    class Own(keras.Model):
        def __init__(self, inputs, outputs, name=None, *, scale=1.0, **kwargs):
            super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)

    inputs = keras.Input((2,))
    config = Own(inputs, keras.layers.Dense(1)(inputs)).get_config()
    assert [layer["class_name"] for layer in config["layers"]] == ["InputLayer", "Dense"]
