"""Compare the speed of exported files with `predict_uncertainty`: 1,000 images, ten samples.

    pip install "tfp_bayes[litert,onnx]" && python benchmarks/exports.py

All take turns, so that a drift of the machine's speed affects all equally, and use two threads. The
script prints medians over the turns, and the size of each file.
"""

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from turns import take_turns

import tfp_bayes

NUM_IMAGES, NUM_SAMPLES, NUM_THREADS = 1000, 10, 2


def contenders(folder, x):
    """Yields (name, size in megabytes, run), where `run` returns the predictive mean."""
    model = tfp_bayes.BayesianCNN(seed=0)
    images = x.astype("float32")
    how = {"num_samples": NUM_SAMPLES, "seed": 0}

    def ours():
        return model.predict_uncertainty(x, batch_size=NUM_IMAGES, **how).mean

    yield "predict_uncertainty", None, ours

    model.export(folder / "saved_model", verbose=False)
    served = tf.saved_model.load(folder / "saved_model")
    size = sum(file.stat().st_size for file in (folder / "saved_model").rglob("*.*"))
    inputs = tf.constant(images), tf.constant(NUM_SAMPLES), tf.constant([0, 0])
    yield "SavedModel", size / 1e6, lambda: served.predict_uncertainty(*inputs)["mean"].numpy()

    for name, options in {"LiteRT": {}, "LiteRT, int8": {"int8": True}}.items():
        path = folder / f"{name}.tflite"
        model.export(path, format="litert", **how, **options)
        interpreter = Interpreter(str(path), num_threads=NUM_THREADS)
        run = interpreter.get_signature_runner()
        yield name, path.stat().st_size / 1e6, lambda run=run: run(images=images)["mean"]

    path = folder / "cnn.onnx"
    model.export(path, format="onnx", **how)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = NUM_THREADS
    session = onnxruntime.InferenceSession(path, options)
    size = path.stat().st_size / 1e6
    names = ["mean", *(each.name for each in session.get_outputs() if each.name != "mean")]
    yield "ONNX Runtime", size, lambda: session.run(names, {"images": images})[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    x = tfp_bayes.datasets.load("mnist").x_test[:NUM_IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        runs = list(contenders(Path(folder), x))
        mean = runs[0][2]()
        seconds = take_turns({name: run for name, _, run in runs}, repeats)
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, TensorFlow {tf.__version__}\n")
        print("| | thousand passes/s | of predict_uncertainty | MB | largest change of a mean |")
        print("|---|---|---|---|---|")
        base = np.array(seconds["predict_uncertainty"])
        for name, size, run in runs:
            rate = NUM_IMAGES * NUM_SAMPLES / statistics.median(seconds[name]) / 1e3
            share = np.median(base / seconds[name])
            change = np.abs(run() - mean).max()
            print(f"| {name} | {rate:.1f} | {share:.2f} | {size or 0:.1f} | {change:.0e} |")


if __name__ == "__main__":
    main()
