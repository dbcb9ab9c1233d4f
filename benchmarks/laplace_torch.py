"""Compare Laplace's approximation with laplace-torch: predictions for the same weights, and time.

    pip install "tfp_bayes[benchmarks]" && python benchmarks/laplace_torch.py

The script trains a LeNet-5 on packaged MNIST images and an MLP on scikit-learn's breast cancer
data, and passes their weights to PyTorch. PyTorch runs in a separate process, because it and
TensorFlow cannot share one; `--torch-python PATH` names the interpreter of another environment that
has torch and laplace-torch.

Predictions: both libraries compute the distribution of logits, and the same integral turns both
into probabilities, so no sampling is involved. The script prints the largest difference.

Seconds are those of the public calls that fit and predict. This library predicts from 100 samples
for the whole network, and by `LastLayerLaplace.predict` for the last layer; laplace-torch predicts
with the linearized network and the probit link. Each backend of laplace-torch has a row. The
default one, CurvlinopsGGN, takes minutes for the whole network if there are many images:
`--images 10000 --backends BackPackGGN` leaves it out.

The networks have no biases, because a bias is a separate Kronecker block in laplace-torch and a row
of its layer's matrix in this library; `--bias` shows how much predictions differ with biases.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CASES = [
    ("last_layer", "full"),
    ("last_layer", "kronecker"),
    ("all", "kronecker"),
    ("all", "diagonal"),
]
PRIOR_SCALE, BATCH_SIZE, NUM_COMPARED = 0.3, 100, 20


# The PyTorch process.


def torch_network(arrays):
    """Returns a PyTorch network with the Keras weights, convolutional or an MLP."""
    import torch
    from torch import nn

    layers, names = [], sorted(k for k in arrays if k.startswith("kernel"))
    for i, name in enumerate(names):
        kernel, bias = arrays[name], arrays.get(f"bias_{i}")
        if kernel.ndim == 4:
            size, _, n_in, n_out = kernel.shape
            layer = nn.Conv2d(n_in, n_out, size, bias=bias is not None)
            kernel, channels = kernel.transpose(3, 2, 0, 1), n_out
            layers += [layer, nn.Tanh(), nn.MaxPool2d(2)]
        else:
            if i and arrays[names[i - 1]].ndim == 4:  # PyTorch flattens channel by channel
                layers.append(nn.Flatten())
                side = int((len(kernel) // channels) ** 0.5)
                kernel = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(-1, kernel.shape[-1])
            layer = nn.Linear(*kernel.shape, bias=bias is not None)
            kernel = kernel.T
            layers += [layer] if i == len(names) - 1 else [layer, nn.Tanh()]
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(kernel.copy()))
            if bias is not None:
                layer.bias.copy_(torch.from_numpy(bias))
    return nn.Sequential(*layers)


def torch_side(folder, backends):
    """Fits every case with each backend, and writes logits and seconds next to the weights."""
    import torch
    from laplace import Laplace, curvature
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(os.cpu_count())
    arrays = dict(np.load(folder / "weights.npz"))
    x, y, x_test = (torch.from_numpy(arrays.pop(name)) for name in ("x", "y", "x_test"))
    if x.ndim == 4:
        x, x_test = (each.permute(0, 3, 1, 2).contiguous() for each in (x, x_test))
    found = {}
    for (weights, covariance), backend in itertools.product(CASES, backends):
        loader = DataLoader(TensorDataset(x, y), batch_size=BATCH_SIZE)
        structure = {"kronecker": "kron", "diagonal": "diag"}.get(covariance, covariance)
        try:
            start = time.perf_counter()
            posterior = Laplace(
                torch_network(arrays).eval(),
                "classification",
                subset_of_weights=weights,
                hessian_structure=structure,
                prior_precision=PRIOR_SCALE**-2,
                backend=getattr(curvature, backend),
            )
            posterior.fit(loader)
            fitted = time.perf_counter()
            for rows in x_test.split(BATCH_SIZE):
                posterior(rows, pred_type="glm", link_approx="probit")
            done = time.perf_counter()
        except Exception as error:
            print(f"{backend}, {weights}, {covariance}: {error!r}", file=sys.stderr)
            continue
        loc, variance = posterior._glm_predictive_distribution(x_test[:NUM_COMPARED])
        found[f"{weights} {covariance} {backend}"] = {
            "seconds": (fitted - start, done - fitted),
            "loc": loc.detach().tolist(),
            "variance": variance.detach().tolist(),
        }
    (folder / "found.json").write_text(json.dumps(found))


# The main process.


def networks(has_bias, num_images):
    """Yields name, trained model and data (x, y, x_test) of two problems."""
    import keras
    from sklearn.datasets import load_breast_cancer

    import tfp_bayes

    layers = keras.layers
    data = tfp_bayes.datasets.load("mnist")
    images = data.x_train[:num_images], data.y_train[:num_images], data.x_test[: num_images // 5]
    table = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(table.target))
    scaled = (table.data - table.data.mean(0)) / table.data.std(0)
    scaled, labels = scaled[order].astype("float32"), table.target[order]
    more = {"use_bias": has_bias}
    lenet = [
        layers.Conv2D(6, 5, activation="tanh", **more),
        layers.MaxPooling2D(),
        layers.Conv2D(16, 5, activation="tanh", **more),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(120, "tanh", **more),
        layers.Dense(84, "tanh", **more),
        layers.Dense(10, "softmax", **more),
    ]
    mlp = [layers.Dense(32, "tanh", **more), layers.Dense(2, "softmax", **more)]
    problems = {
        f"LeNet-5, {num_images:,} MNIST images": (lenet, images, 10),
        "MLP, breast cancer": (mlp, (scaled[:400], labels[:400], scaled[400:]), 30),
    }
    for name, (stack, (x, y, x_test), epochs) in problems.items():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(x.shape[1:]), *stack])
        model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
        yield name, model, x.astype("float32"), y.astype("int64"), x_test.astype("float32")


def logits(model, posterior, x):
    """Returns mean (N, K) and covariance (N, K, K) of logits; all weights use Jacobians."""
    import tensorflow as tf

    if not hasattr(posterior, "_blocks"):
        phi = np.concatenate(list(posterior._layer.features(x)))
        return phi @ posterior.mean, posterior.curvature.logit_covariance(phi, posterior.variances)
    with tf.GradientTape(persistent=True) as tape:
        eta = model(x)._keras_logits
    covariance = 0
    for matrix, block in zip(posterior._matrices, posterior._blocks):
        parts = tape.jacobian(eta, [v.value for v in matrix.variables], experimental_use_pfor=True)
        rows = [np.reshape(p, (-1, *v.shape)) for p, v in zip(parts, matrix.variables)]
        j = np.stack([matrix.join([r[i] for r in rows])[0] for i in range(len(rows[0]))])
        if block.output_vectors is not None:
            j = block.input_vectors[0].T @ j @ block.output_vectors[0]
        root = j / np.sqrt(block.eigenvalues[0] + posterior.prior_scale**-2)
        root = root.reshape(*eta.shape, -1)
        covariance = covariance + root @ root.transpose(0, 2, 1)
    return eta.numpy().astype("float64"), covariance


def compare(name, model, x, y, x_test, folder, options):
    """Prints a row of the table for each case and backend."""
    import keras

    import tfp_bayes
    from tfp_bayes.inference.softmax_mean import softmax_mean

    arrays = {}
    linear = [layer for layer in model.layers if layer.weights]
    for i, layer in enumerate(linear):
        arrays |= {f"{v.name}_{i}": v.numpy() for v in layer.weights}
    np.savez(folder / "weights.npz", x=x, y=y, x_test=x_test, **arrays)
    command = [options.torch_python, __file__, "--torch-side", str(folder), "--backends"]
    subprocess.run([*command, *options.backends], check=True)
    found = json.loads((folder / "found.json").read_text())
    for weights, covariance in CASES:
        method = tfp_bayes.Laplace(covariance, PRIOR_SCALE, variables=weights)
        start = time.perf_counter()
        posterior = method.fit(model, x, y)
        fitted = time.perf_counter()
        if weights == "last_layer":
            posterior.predict(x_test)
        else:
            predictor = tfp_bayes.Predictor(model, posterior=posterior)
            predictor.predict_uncertainty(x_test, 100, seed=0)
        done = time.perf_counter()
        ours = softmax_mean(*logits(model, posterior, x_test[:NUM_COMPARED]))
        for backend in options.backends:
            theirs = found.get(f"{weights} {covariance} {backend}")
            if theirs is None:
                continue
            mean = softmax_mean(np.array(theirs["loc"]), np.array(theirs["variance"]))
            fit, predict = theirs["seconds"]
            print(
                f"| {name} | {weights}, {covariance} | {backend} | {np.abs(ours - mean).max():.1e} "
                f"| {fitted - start:.2f} | {fit:.2f} | {done - fitted:.2f} | {predict:.2f} | "
                f"{(fit + predict) / (done - start):.1f} |",
                flush=True,
            )
    keras.backend.clear_session()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    parser.add_argument("--bias", action="store_true", help="use networks with biases")
    parser.add_argument("--images", type=int, default=1000, help="MNIST images to train on")
    parser.add_argument("--backends", nargs="+", default=["CurvlinopsGGN", "BackPackGGN"])
    parser.add_argument("--torch-side", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch_side:
        torch_side(options.torch_side, options.backends)
        return
    print(f"{platform.machine()}, {os.cpu_count()} CPUs; seconds\n")
    print("| | | backend | largest difference | fit | peer's | predict | peer's | times as fast |")
    print("|---|---|---|---|---|---|---|---|---|")
    for problem in networks(options.bias, options.images):
        with tempfile.TemporaryDirectory() as folder:
            compare(*problem, Path(folder), options)


if __name__ == "__main__":
    main()
