"""A regression with a gap in its data: who knows what it does not know?

    python examples/08_uncertain_regression.py

MC dropout, Flipout, a closed-form head on trained features and an exact Gaussian process see the
same 80 points, none of them between -0.3 and 0.5. The picture shows each predictive mean with two
standard deviations: of the function (dark), whose average is printed, and of a new point (light).
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

import tfp_bayes

NOISE = 0.1


def truth(x):
    return np.sin(4 * x) + 0.5 * x


def sampled(dense, rate, x, y, epochs, temperature=1.0):
    """A network of two hidden layers, with one noise scale for all inputs."""
    inputs = hidden = keras.Input((1,))
    for _ in range(2):
        hidden = tfp_bayes.layers.MCDropout(rate)(dense(64, activation="tanh")(hidden))
    outputs = tfp_bayes.layers.NormalParameters(heteroscedastic=False)(dense(1)(hidden))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal", prior_scale=1.0)
    model.compile(keras.optimizers.Adam(0.01), tfp_bayes.losses.NormalNLL())
    weight = tfp_bayes.KLWeight(temperature=temperature)
    model.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0, callbacks=[weight])
    return lambda x: moments(model.predict_uncertainty(x, num_samples=500, seed=0))


def closed_form(x, y, epochs):
    layers = (keras.layers.Dense(64, "tanh") for _ in range(2))
    features = keras.Sequential([keras.Input((1,)), *layers])
    model = tfp_bayes.BayesianBasisRegression(features, 1, task="regression", noise_scale=NOISE)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0)
    return lambda x: moments(model.predict_uncertainty(x))


def moments(p):
    """Returns mean and standard deviations of function and new point, (N,) each."""
    return p.mean[:, 0], *np.sqrt([p.epistemic_variance, p.variance])[..., 0]


def gaussian_process(x, y):
    kernel = kernels.ConstantKernel() * kernels.RBF() + kernels.WhiteKernel(NOISE**2)
    process = GaussianProcessRegressor(kernel, random_state=0).fit(x, y)

    def predict(x):
        mean, total = process.predict(x, return_std=True)
        return mean, np.sqrt(np.maximum(total**2 - process.kernel_.k2.noise_level, 0)), total

    return predict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/08_uncertain_regression"))
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    epochs = 5 if options.smoke else 1500
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.2, 1.2, (400, 1))
    x = x[(x < -0.3) | (x > 0.5)][:80, None]
    y = truth(x[:, 0]) + NOISE * rng.normal(size=len(x))
    predictors = {
        "MC dropout": sampled(keras.layers.Dense, 0.05, x, y, epochs),
        # Cold, because 80 points do not outweigh the prior of 4,000 weights.
        "Flipout, cold": sampled(tfp_bayes.layers.DenseFlipout, 0, x, y, epochs, temperature=0.1),
        "closed-form head": closed_form(x, y, epochs),
        "Gaussian process": gaussian_process(x, y),
    }
    grid = np.linspace(-1.8, 1.8, 300)[:, None]
    places = {"in the gap": np.linspace(-0.1, 0.3, 50)[:, None], "on the data": x}
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    for axis, (name, predict) in zip(figure.subplots(1, 4, sharey=True), predictors.items()):
        mean, *widths = predict(grid)
        for width, alpha in zip(widths, (0.35, 0.15)):
            low, high = mean - 2 * width, mean + 2 * width
            axis.fill_between(grid[:, 0], low, high, alpha=alpha, color="C0")
        axis.plot(grid, truth(grid), "k--", grid, mean, "C3", x, y, "k.", markersize=3, linewidth=1)
        axis.set(title=name, ylim=(-3, 3), xlabel="x")
        print(name, *(f"{where}: {predict(at)[1].mean():.3f}" for where, at in places.items()))
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "gap.png", dpi=110)
    print(f"Wrote {options.out / 'gap.png'}")


if __name__ == "__main__":
    main()
