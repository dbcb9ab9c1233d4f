# %% [markdown]
# # Which methods notice a gap in the data?
#
# Four methods learn from the same 80 points, none of which is between -0.3 and 0.5: MC dropout,
# Flipout, a closed-form head on trained features, and an exact Gaussian process as the reference.
# You learn to fit a regression with each method, and why their uncertainties differ.
#
# ```bash
# python examples/08_uncertain_regression.py  # a minute and a half on two cores
# ```

# %%
import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

import tfp_bayes

parser = argparse.ArgumentParser(description="A regression with a gap in its data")
parser.add_argument("--out", type=Path, default=Path("runs/08_uncertain_regression"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none
epochs = 5 if options.smoke else 1500
NOISE = 0.1


def truth(x):
    return np.sin(4 * x) + 0.5 * x


keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.uniform(-1.2, 1.2, (400, 1))
x = x[(x < -0.3) | (x > 0.5)][:80, None]
y = truth(x[:, 0]) + NOISE * rng.normal(size=len(x))

# %% [markdown]
# ## Two networks with random layers
#
# Both learn the scale of the noise. Flipout uses a cold posterior (`temperature`): 80 points do not
# outweigh the prior of 4,000 weights, so the fit would be flat at temperature 1.


# %%
def moments(p):
    """Returns the mean, and the standard deviations of function and new point, (N,) each."""
    return p.mean[:, 0], *np.sqrt([p.epistemic_variance, p.variance])[..., 0]


def sampled(dense, activation, rate, temperature=1.0):
    inputs = hidden = keras.Input((1,))
    for _ in range(2):
        hidden = tfp_bayes.layers.MCDropout(rate)(dense(64, activation=activation)(hidden))
    outputs = tfp_bayes.layers.NormalParameters(heteroscedastic=False)(dense(1)(hidden))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal", prior_scale=1.0)
    model.compile(keras.optimizers.Adam(0.01), tfp_bayes.losses.NormalNLL())
    weight = tfp_bayes.KLWeight(temperature=temperature)
    model.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0, callbacks=[weight])
    return lambda x: moments(model.predict_uncertainty(x, num_samples=500, seed=0))


predictors = {
    "MC dropout": sampled(keras.layers.Dense, "relu", rate=0.05),
    "Flipout, cold": sampled(tfp_bayes.layers.DenseFlipout, "tanh", rate=0, temperature=0.01),
}

# %% [markdown]
# ## Two posteriors in closed form

# %%
features = keras.Sequential([keras.Input((1,)), *(keras.layers.Dense(64, "tanh") for _ in "12")])
head = tfp_bayes.BayesianBasisRegression(features, 1, task="regression", noise_scale=NOISE)
head.compile(keras.optimizers.Adam(0.01))
head.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0)
predictors["closed-form head"] = lambda x: moments(head.predict_uncertainty(x))

kernel = kernels.ConstantKernel() * kernels.RBF() + kernels.WhiteKernel(NOISE**2)
process = GaussianProcessRegressor(kernel, random_state=0).fit(x, y)


def gaussian_process(x):
    mean, total = process.predict(x, return_std=True)
    return mean, np.sqrt(np.maximum(total**2 - process.kernel_.k2.noise_level, 0)), total


predictors["Gaussian process"] = gaussian_process

# %% [markdown]
# ## In the gap and on the data
#
# This part prints the standard deviation of the function, without noise. All four methods are more
# uncertain in the gap than on the data, but only the two in closed form are uncertain enough: in
# the gap their bands contain the truth, while those of MC dropout and Flipout miss it.
#
# - The spread of dropout comes from the dropped units, not from a lack of data. With one hidden
#   layer, its variance is convex in x and cannot be larger in a gap than on both sides.
# - The posterior of Flipout treats weights as independent and settles on one of the functions that
#   would fit (Foong et al. 2020, section 3, [arXiv:1909.00719](https://arxiv.org/abs/1909.00719)).
# - The activation matters too. With tanh units, which saturate, the spread of dropout follows the
#   size of the function and is larger on the data.
#
# ![Predictive means and bands of four methods](../docs/images/08_uncertain_regression.png)

# %%
grid = np.linspace(-1.8, 1.8, 300)[:, None]
places = {"in the gap": np.linspace(-0.1, 0.3, 50)[:, None], "on the data": x}
figure = Figure(figsize=(14, 4.2), layout="constrained")
for axis, (name, predict) in zip(figure.subplots(1, 4, sharey=True), predictors.items()):
    mean, *widths = predict(grid)
    names = ("function, 2 standard deviations", "new point, 2 standard deviations")
    for width, alpha, label in zip(widths, (0.45, 0.2), names):
        low, high = mean - 2 * width, mean + 2 * width
        axis.fill_between(grid[:, 0], low, high, alpha=alpha, color="C0", label=label, lw=0)
    axis.plot(grid, mean, color="C0", label="mean")
    axis.plot(grid, truth(grid), "k--", linewidth=1, label="truth")
    axis.plot(x, y, "k.", markersize=4, label="data")
    axis.set(title=name, ylim=(-3, 3), xlabel="x")
    print(name, *(f"{where}: {predict(at)[1].mean():.3f}" for where, at in places.items()))
figure.axes[0].set_ylabel("y")
figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "gap.png", dpi=80)
print(f"Wrote {options.out / 'gap.png'}")
