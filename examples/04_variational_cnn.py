# %% [markdown]
# # Prune a variational network
#
# LeNet-5 with Flipout learns a mean and a standard deviation of every weight. You learn to train
# such a network, to compute the signal-to-noise ratio |mean| / scale of its weights, and to remove
# the weights with a low ratio (Blundell et al. 2015, section 5.1,
# [arXiv:1505.05424](https://arxiv.org/abs/1505.05424)).
#
# ```bash
# python examples/04_variational_cnn.py  # two minutes on two cores
# ```

# %%
import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import metrics
from tfp_bayes.layers import variational_layers

parser = argparse.ArgumentParser(description="LeNet-5 with Flipout, and pruning of its weights")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--out", type=Path, default=Path("runs/04_variational_cnn"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none

(x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
if options.smoke:
    options.epochs = 1
    x_train, y_train, x_test, y_test = x_train[:500], y_train[:500], x_test[:200], y_test[:200]

model = tfp_bayes.BayesianLeNet5(inference="flipout", seed=0)
rate = keras.optimizers.schedules.CosineDecay(1e-3, options.epochs * -(-len(x_train) // 128))
model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
model.fit(x_train, y_train, batch_size=128, epochs=options.epochs, verbose=2)

p = model.predict_uncertainty(x_test, num_samples=100, seed=0)
print(f"accuracy {metrics.accuracy(y_test, p.mean):.4f}")
print(f"NLL      {metrics.nll(y_test, p.mean):.4f} nats")
print(f"ECE      {metrics.expected_calibration_error(y_test, p.mean, 10):.4f} (10 bins)")
print(f"         {metrics.calibration_floor(p.mean, 10).quantile_95:.4f} is possible by chance")

# %% [markdown]
# ## Prune by signal-to-noise ratio
#
# The posterior of a layer is a distribution; its mean and standard deviation are arrays with the
# shape of the kernel. Weights below the threshold become zero, without noise.


# %%
def signal_to_noise(layer):
    q = layer.random_kernel.distribution()
    return (np.abs(q.mean()) / q.stddev()).numpy()


def prune(model, fraction):
    layers = variational_layers(model)
    ratios = [signal_to_noise(layer) for layer in layers]
    threshold = np.quantile(np.concatenate([r.ravel() for r in ratios]), fraction)
    for layer, ratio in zip(layers, ratios):
        keep = ratio >= threshold
        layer.kernel_loc.assign(np.where(keep, layer.kernel_loc, 0))
        scale = layer.kernel_untransformed_scale
        scale.assign(np.where(keep, scale, -5))  # softplus(-50) is negligible


ratios = {layer.name: signal_to_noise(layer) for layer in variational_layers(model)}
removed = (0, 0.5, 0.75, 0.9, 0.95, 0.98)
accuracies = []
for fraction in removed:
    prune(model, fraction)
    mean = model.predict_uncertainty(x_test, num_samples=20, seed=0).mean
    accuracies.append(metrics.accuracy(y_test, mean))
    print(f"{fraction:4.0%} of the kernel weights removed: accuracy {accuracies[-1]:.4f}")

# %% [markdown]
# Most weights of the first dense layer are noise around zero: 0 dB means that the mean equals the
# standard deviation. Weights of the convolutions have higher ratios. Three of four kernel weights
# can be removed.
#
# ![Signal-to-noise ratios, and accuracy after pruning](../docs/images/04_variational_cnn.png)

# %%
figure = Figure(figsize=(11, 4), layout="constrained")
left, right = figure.subplots(1, 2)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "black")  # for color-blind readers
for (name, ratio), style, color in zip(ratios.items(), ("-", "--", ":", "-.", "-"), COLORS):
    decibel = 20 * np.log10(np.maximum(ratio.ravel(), 1e-4))
    density, edges = np.histogram(decibel, bins=40, range=(-60, 60), density=True)
    left.plot((edges[1:] + edges[:-1]) / 2, density, linestyle=style, color=color, label=name)
left.set(xlabel="signal to noise |mean| / scale (dB)", ylabel="density", title="Weights")
left.legend()
right.plot([100 * f for f in removed], [100 * a for a in accuracies], marker="o")
right.set(xlabel="weights removed (%)", ylabel="test accuracy (%)", title="Pruning")
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "weights.png", dpi=80)
print(f"Wrote {options.out / 'weights.png'}")
