"""Options, process setup and fixtures that tests share."""

import gc

import pytest
import xdist


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz", type=int, default=12, help="number of random graphs for the predictor"
    )
    parser.addoption(
        "--zoo", action="store_true", help="include keras.applications in the zoo of models"
    )


def pytest_sessionstart(session):
    """Prepare a process that runs tests, but not the one that distributes them."""
    if xdist.is_xdist_controller(session):
        return
    import tensorflow as tf

    import tfp_bayes  # noqa: F401

    # The imports leave half a million permanent objects. Exclude them from garbage collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    # Test processes run in parallel with one core each, where more TensorFlow threads would only
    # wait for each other. Processes that tests start use the default threads and must give
    # bit-equal results.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    # Two logical devices, so that distribution strategies can be tested on any machine.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(autouse=True)
def _same_random_numbers_in_every_run():
    """Seed what Keras uses where no seed is given: for initial weights, and the order of data."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def two_replicas():
    """Return a strategy with two replicas that reduces on one device.

    The default collective operations remember tensor shapes per device for the whole process and
    fail when a later strategy uses other shapes.
    """
    import tensorflow as tf

    collect = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=collect)
