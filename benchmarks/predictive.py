"""Compare the speed of sampled prediction with other libraries: 1,000 images, 100 samples.

    pip install "tfp_bayes[benchmarks]" && python benchmarks/predictive.py

All take turns, so that a drift of the machine's speed affects all equally. The table shows medians
over the turns and how much faster tfp_bayes is. Without the extra, PyTorch and BaaL are left out.
"""

import argparse
import os
import platform
import statistics

import triton_first  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf
from turns import take_turns

import tfp_bayes

NUM_IMAGES, NUM_SAMPLES = 1000, 100


def contenders(x):
    """Yields (name, samples, run), where `run` returns when the result is computed."""
    model = tfp_bayes.BayesianCNN()
    floats = x.astype("float32")

    def ours():
        model.predict_uncertainty(x, NUM_SAMPLES, seed=0, batch_size=NUM_IMAGES)

    def ours_one_sample():
        model.predict_uncertainty(x, 1, seed=0, batch_size=NUM_IMAGES)

    def ours_default_batch():
        model.predict_uncertainty(x, NUM_SAMPLES, seed=0)

    plain = keras.Sequential(
        [
            keras.layers.Dropout(layer.rate)
            if isinstance(layer, tfp_bayes.layers.MCDropout)
            else type(layer).from_config(layer.get_config())
            for layer in model.layers
        ]
    )

    def keras_loop(samples=10):
        np.mean([plain(floats, training=True).numpy() for _ in range(samples)], axis=0)

    folded_samples = 10

    @tf.function
    def folded(images):
        repeated = tf.repeat(images, folded_samples, axis=0)
        outputs = plain(repeated, training=True)
        return tf.reduce_mean(tf.reshape(outputs, [-1, folded_samples, 10]), axis=1)

    activations = tf.random.normal([NUM_IMAGES, 3872])
    kernel = tf.random.normal([3872, 128])

    @tf.function
    def matrix_products(a, w):
        def step(s, total):
            # The kernel depends on s, so that the product cannot be hoisted out of the loop.
            return s + 1, total + tf.matmul(a, w + tf.cast(s, tf.float32) * 1e-9)

        return tf.while_loop(lambda s, _: s < NUM_SAMPLES, step, (0, tf.zeros([NUM_IMAGES, 128])))[
            1
        ]

    yield "tfp_bayes", NUM_SAMPLES, ours
    yield "tfp_bayes, 1 sample", 1, ours_one_sample
    yield "tfp_bayes, default batch size", NUM_SAMPLES, ours_default_batch
    yield (
        "matrix product 1000x3872x128 alone",
        NUM_SAMPLES,
        lambda: matrix_products(activations, kernel).numpy(),
    )
    yield "Keras loop, model(x, training=True)", 10, keras_loop
    yield "Keras, samples in the batch, tf.function", folded_samples, lambda: folded(floats).numpy()
    yield from torch_contenders(floats)


def torch_contenders(floats):
    try:
        import torch
        from networks import silence, torch_cnn
    except ImportError:
        print("PyTorch is not installed: left out.")
        return
    torch.set_num_threads(os.cpu_count())
    images = torch.from_numpy(np.moveaxis(floats / 255, -1, 1).copy())
    network = torch_cnn().train()  # training mode keeps dropout on

    def torch_loop(samples=10):
        with torch.no_grad():
            torch.stack([network(images).softmax(-1) for _ in range(samples)]).mean(0)

    yield "PyTorch loop", 10, torch_loop
    try:
        from baal.active.heuristics import BALD
        from baal.bayesian.dropout import Dropout
        from baal.modelwrapper import ModelWrapper, TrainingArgs
    except ImportError as error:
        print(f"BaaL is not installed ({error}): left out.")
        return
    data = torch.utils.data.TensorDataset(images, torch.zeros(len(images), dtype=torch.long))

    def baal(replicated):
        arguments = TrainingArgs(
            batch_size=100, use_cuda=False, workers=0, replicate_in_memory=replicated
        )
        wrapper = ModelWrapper(torch_cnn(Dropout).eval(), arguments)

        def run(samples=10):
            with silence():
                BALD().get_uncertainties(wrapper.predict_on_dataset(data, samples))

        return run

    yield "BaaL predict_on_dataset + BALD, looped", 10, baal(False)
    yield "BaaL predict_on_dataset + BALD, replicated", 10, baal(True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    x = tfp_bayes.datasets.load("mnist").x_test[:NUM_IMAGES]
    runs = list(contenders(x))
    times = take_turns({name: run for name, _, run in runs}, repeats)
    rates = {name: [NUM_IMAGES * samples / t for t in times[name]] for name, samples, _ in runs}
    print(f"\n{platform.machine()}, {os.cpu_count()} CPUs, TensorFlow {tf.__version__}; ", end="")
    print(f"median of {repeats} runs, thousand passes per second (min - max):\n")
    ours = statistics.median(rates["tfp_bayes"])
    print("| | thousand passes/s | tfp_bayes is faster by |\n|---|---|---|")
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values) / 1e3:.1f} - {max(values) / 1e3:.1f}"
        print(f"| {name} | {median / 1e3:.1f} ({spread}) | {ours / median:.2f} |")
    seconds = {name: NUM_IMAGES / statistics.median(values) for name, values in rates.items()}
    first, product = seconds["tfp_bayes, 1 sample"], seconds["matrix product 1000x3872x128 alone"]
    further = (NUM_SAMPLES * seconds["tfp_bayes"] - first) / (NUM_SAMPLES - 1)
    print("\nThe convolutions run once, with the first sample; each further sample runs at")
    print(f"{product / further:.2f} of the speed of the matrix product alone.")


if __name__ == "__main__":
    main()
