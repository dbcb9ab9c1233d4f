"""Two logical CPU devices, so that distribution can be tested on any machine."""

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
    """Runs where tests run, not in the process that hands them out."""
    if xdist.is_xdist_controller(session):
        return
    import tensorflow as tf

    import tfp_bayes  # noqa: F401

    # What these imports leave stays: half a million objects that each full collection looks at.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    # The processes that run tests side by side have a core each, where TensorFlow's threads would
    # wait for each other. Those that tests start have threads as at a user's, and equal bits.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture
def two_replicas():
    """A strategy of two replicas, which collects on one device.

    The usual collective operations remember, for the whole process, the shapes that an earlier
    strategy gave to the same devices, and fail on others.
    """
    import tensorflow as tf

    collect = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=collect)
