# %% [markdown]
# # Make a trained Keras model Bayesian, and go back
#
# An ordinary CNN, trained on 5,000 digits, is converted with one call, trained further, and
# converted back. You learn how each stage performs on the test digits, and that networks of
# `keras.applications` convert in the same way.
#
# ```bash
# python examples/05_convert_a_model.py  # three minutes on two cores
# ```

# %%
import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import metrics

parser = argparse.ArgumentParser(description="A trained Keras model becomes Bayesian, and back")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--out", type=Path, default=Path("runs/05_convert_a_model"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none

(x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
x_train, y_train = x_train[:5000], y_train[:5000]
if options.smoke:
    options.epochs = 1
    x_train, y_train, x_test, y_test = x_train[:500], y_train[:500], x_test[:200], y_test[:200]

# %% [markdown]
# ## An ordinary model

# %%
layers = keras.layers
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(32, 4, activation="relu"),
        layers.SeparableConv2D(32, 4, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(x_train, y_train, batch_size=64, epochs=options.epochs, verbose=0)

# %% [markdown]
# ## Make it Bayesian
#
# Weights become means; `moped_delta` sets each standard deviation to a fifth of the absolute
# weight. Then both are trained under the prior.

# %%
bayesian = tfp_bayes.to_bayesian(model, "flipout", moped_delta=0.2)
probabilities = {"Keras": model.predict(x_test, verbose=0)}
probabilities["converted"] = bayesian.predict_uncertainty(x_test, seed=0).mean
bayesian.compile(keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy")
bayesian.fit(x_train, y_train, batch_size=64, epochs=options.epochs, verbose=0)
probabilities["converted and tuned"] = bayesian.predict_uncertainty(x_test, seed=0).mean
means = tfp_bayes.to_deterministic(bayesian)  # an ordinary Keras model again
probabilities["to_deterministic"] = means.predict(x_test, verbose=0)
for name, probs in probabilities.items():
    print(
        f"{name:20s} accuracy {metrics.accuracy(y_test, probs):.4f}  "
        f"NLL {metrics.nll(y_test, probs):.4f}  "
        f"ECE {metrics.expected_calibration_error(y_test, probs):.4f} "
        f"(chance up to {metrics.calibration_floor(probs).quantile_95:.4f})"
    )

# %% [markdown]
# The accuracy of each network at a given confidence. Below the diagonal, a network is
# overconfident.
#
# ![Reliability of the Keras model and of the Bayesian one](../docs/images/05_convert_a_model.png)

# %%
figure = Figure(figsize=(5, 5), layout="constrained")
axes = figure.subplots()
axes.plot([0, 1], [0, 1], color="gray", linestyle=":", label="calibrated")
for name, style in {"Keras": "s--", "converted and tuned": "o-"}.items():
    confidence = probabilities[name].max(-1)
    hit = probabilities[name].argmax(-1) == y_test
    bins = np.minimum((confidence * 10).astype(int), 9)
    used = [b for b in range(10) if np.sum(bins == b) >= 20]
    x = [confidence[bins == b].mean() for b in used]
    axes.plot(x, [hit[bins == b].mean() for b in used], style, label=name)
axes.set(xlabel="confidence", ylabel="accuracy", title="Reliability on the test digits")
axes.legend()
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "reliability.png", dpi=80)
print(f"Wrote {options.out / 'reliability.png'}")

# %% [markdown]
# ## A larger network
#
# MobileNetV2 has skip connections, batch normalization and depthwise convolutions.

# %%
tfp_bayes.to_bayesian(
    keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), classes=10)
)
