# %% [markdown]
# # What a prior does to the weights
#
# Softmax regression is fitted to 2,000 digits under three priors. Weights are point estimates
# (posterior "deterministic"), so only the prior differs. You learn that a Gaussian prior is L2
# regularization, that a Laplace prior leaves few large weights, and that a scale mixture combines
# both.
#
# ```bash
# python examples/06_priors.py  # half a minute on two cores
# ```

# %%
import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import metrics, priors
from tfp_bayes.layers import DenseReparameterization

parser = argparse.ArgumentParser(description="What a prior does to the weights")
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("runs/06_priors"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none

(x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
x_train, y_train = x_train[:2000], y_train[:2000]
if options.smoke:
    options.epochs, x_train, y_train = 2, x_train[:200], y_train[:200]
    x_test, y_test = x_test[:200], y_test[:200]
x = x_train.reshape(-1, 784).astype("float32") / 255


def regression(last):
    """Trains softmax(last(x)); returns its kernel and the model."""
    model = keras.Sequential([keras.Input((784,)), last])
    rate = keras.optimizers.schedules.CosineDecay(0.02, options.epochs * (len(x) // 100))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    # Plain Keras layers ignore the callback.
    weight = tfp_bayes.KLWeight(num_train=len(x))
    model.fit(x, y_train, 100, options.epochs, verbose=0, shuffle=False, callbacks=[weight])
    return np.asarray(last.kernel), model


# %% [markdown]
# ## A Gaussian prior is L2 regularization
#
# With a factor of 1 / (2 scale² N), the regularizer of Keras leads to the same weights.

# %%
PRIORS = {
    "normal": priors.Normal(scale=0.1),
    "Laplace": priors.Laplace(scale=0.1),
    "scale mixture": priors.ScaleMixture(0.25, scale1=0.5, scale2=0.01),
}
start = keras.initializers.GlorotUniform(0)
arguments = {"units": 10, "activation": "softmax", "kernel_initializer": start}
kernels, models = {}, {}
for name, prior in PRIORS.items():
    layer = DenseReparameterization(
        **arguments, kernel_prior=prior, kernel_posterior="deterministic"
    )
    kernels[name], models[name] = regression(layer)
l2 = keras.regularizers.L2(1 / (2 * 0.1**2 * len(x)))
expected, _ = regression(keras.layers.Dense(**arguments, kernel_regularizer=l2))
difference = np.abs(kernels["normal"] - expected).max()
print(f"Normal prior and Keras' L2: largest difference of a weight {difference:.1e}")

# %% [markdown]
# ## Few large weights or many small ones
#
# ![Histograms of the weights under three priors](../docs/images/06_priors.png)

# %%
figure = Figure(figsize=(11, 3.8), layout="constrained")
for axes, (name, kernel) in zip(figure.subplots(1, 3, sharex=True, sharey=True), kernels.items()):
    small = np.mean(np.abs(kernel) < 0.01)
    mean = models[name].predict(x_test.reshape(-1, 784) / 255, verbose=0)
    print(
        f"{name:13s} {small:.0%} of the weights are below 0.01, largest {kernel.max():.2f}, "
        f"accuracy {metrics.accuracy(y_test, mean):.4f}"
    )
    axes.hist(kernel.ravel(), bins=np.linspace(-1, 1, 101), log=True)
    axes.set(title=f"{name}: {small:.0%} below 0.01", xlabel="weight")
figure.axes[0].set_ylabel("number of weights")
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "weights.png", dpi=80)
print(f"Wrote {options.out / 'weights.png'}")
