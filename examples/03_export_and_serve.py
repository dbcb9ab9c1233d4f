"""Export a Bayesian CNN and serve its uncertainty in a process that knows only TensorFlow.

python examples/03_export_and_serve.py
python examples/03_export_and_serve.py --epochs 10 --model saved_models/mnist_mc_dropout
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import tfp_bayes
from tfp_bayes import metrics

SERVER = """
import sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])  # neither tfp_bayes nor Keras is needed
images = tf.constant(np.load(sys.argv[2]), tf.float32)
served = model.predict_uncertainty(images, tf.constant(100), tf.constant([0, 0]))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in served.items()})
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", type=Path, default=Path("runs/03_export_and_serve/saved_model"))
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    (x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
    if options.smoke:
        options.epochs, x_train, y_train = 1, x_train[:500], y_train[:500]

    model = tfp_bayes.BayesianCNN(seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=128, epochs=options.epochs, verbose=2)
    model.export(options.model)
    size = sum(file.stat().st_size for file in options.model.rglob("*") if file.is_file())
    mean = model.predict(x_test, verbose=0)
    print(f"Wrote {options.model}, {size / 1e6:.1f} MB: test accuracy", end=" ")
    print(f"{metrics.accuracy(y_test, mean):.4f}, NLL {metrics.nll(y_test, mean):.4f}")

    with tempfile.TemporaryDirectory() as folder:
        images, answers = Path(folder, "images.npy"), Path(folder, "answers.npz")
        np.save(images, x_test[:100])
        subprocess.run([sys.executable, "-c", SERVER, options.model, images, answers], check=True)
        served = np.load(answers)
        own = model.predict_uncertainty(x_test[:100], num_samples=100, seed=0)
        for name in served:
            equal = np.array_equal(served[name], getattr(own, name))
            print(f"{name:20s} bit-equal to model.predict_uncertainty: {equal}")
            assert equal


if __name__ == "__main__":
    main()
