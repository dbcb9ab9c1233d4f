"""Compare prediction by an ensemble of 10 with ten forward passes, for 1,000 28 x 28 images.

    python benchmarks/ensemble.py

The two take turns, so that a drift of the machine's speed affects both equally. The script prints
medians over the turns and the median ratio within a turn.
"""

import argparse
import platform
import time

import keras
import numpy as np
import tensorflow as tf

import tfp_bayes

NUM_IMAGES, NUM_MEMBERS = 1000, 10


def lenet():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(6, 5, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(16, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(120, activation="relu"),
            keras.layers.Dense(84, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def wide():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(1200, activation="relu"),
            keras.layers.Dense(1200, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def seconds(run):
    """Returns elapsed seconds and processor seconds, which other processes disturb less."""
    start, work = time.perf_counter(), time.process_time()
    run()
    return np.array([time.perf_counter() - start, time.process_time() - work])


def compare(name, make, repeats):
    x = np.random.default_rng(0).random((NUM_IMAGES, 28, 28, 1)).astype("float32")
    members = [make() for _ in range(NUM_MEMBERS)]
    predictor = tfp_bayes.Predictor(members[0], posterior=tfp_bayes.Ensemble(members))
    passes = [tf.function(member, autograph=False) for member in members]
    images = tf.constant(x)

    def plain():
        return np.mean([forward(images).numpy() for forward in passes], axis=0)

    def ours():
        return predictor.predict_uncertainty(x, batch_size=NUM_IMAGES).mean

    np.testing.assert_allclose(ours(), plain(), atol=1e-5)
    turns = np.array([(seconds(plain), seconds(ours)) for _ in range(repeats)])
    a, b = 1e3 * np.median(turns[..., 0], axis=0)
    elapsed, work = np.median(turns[:, 1] / turns[:, 0], axis=0)
    print(
        f"{name:12s} ten passes {a:6.1f} ms  ensemble {b:6.1f} ms  "
        f"ratio {elapsed:.2f} of time, {work:.2f} of processor time"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25)
    repeats = parser.parse_args().repeats
    print(f"{platform.machine()}, TensorFlow {tf.__version__}, Keras {keras.__version__}")
    compare("LeNet-5", lenet, repeats)
    compare("MLP 2 x 1200", wide, repeats)


if __name__ == "__main__":
    main()
