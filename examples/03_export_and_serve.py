# %% [markdown]
# # Serve the uncertainty with plain TensorFlow
#
# A Bayesian CNN is exported and then used in a process that imports neither Keras nor this library.
# You learn the inputs and outputs of the exported signatures, and see that the results are exactly
# those of the model itself.
#
# ```bash
# python examples/03_export_and_serve.py  # a minute on two cores
# python examples/03_export_and_serve.py --epochs 10 --model saved_models/mnist_mc_dropout
# ```

# %%
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import rotate

import tfp_bayes
from tfp_bayes import metrics

parser = argparse.ArgumentParser(description="Export a Bayesian CNN and serve its uncertainty")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--out", type=Path, default=Path("runs/03_export_and_serve"))
parser.add_argument("--model", type=Path, help="folder of the SavedModel (default: in --out)")
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none
folder = options.model or options.out / "saved_model"

(x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
if options.smoke:
    options.epochs, x_train, y_train = 1, x_train[:500], y_train[:500]
    x_test, y_test = x_test[:500], y_test[:500]

model = tfp_bayes.BayesianCNN(seed=0)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=128, epochs=options.epochs, verbose=2)
model.export(folder)
size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
mean = model.predict(x_test, verbose=0)
print(f"Wrote {folder}, {size / 1e6:.1f} MB: test accuracy", end=" ")
print(f"{metrics.accuracy(y_test, mean):.4f}, NLL {metrics.nll(y_test, mean):.4f}")

# %% [markdown]
# ## The server
#
# `predict_uncertainty` takes images, a number of samples and a seed. Since the seed is an input,
# the result depends only on the inputs. The images are test digits, and one digit rotated step by
# step.

# %%
SERVER = """
import sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])  # neither tfp_bayes nor Keras is needed
images = tf.constant(np.load(sys.argv[2]), tf.float32)
served = model.predict_uncertainty(images, tf.constant(100), tf.constant([0, 0]))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in served.items()})
"""
angles = np.arange(0, 181, 15)
turned = np.stack([rotate(x_test[2], angle, reshape=False, order=1) for angle in angles])  # a 1
images = np.concatenate([turned, x_test[:100]])
with tempfile.TemporaryDirectory() as temporary:
    question, answer = Path(temporary, "images.npy"), Path(temporary, "answers.npz")
    np.save(question, images)
    subprocess.run([sys.executable, "-c", SERVER, folder, question, answer], check=True)
    served = dict(np.load(answer))

own = model.predict_uncertainty(images, num_samples=100, seed=0)
for name in served:
    equal = np.array_equal(served[name], getattr(own, name))
    print(f"{name:20s} bit-equal to model.predict_uncertainty: {equal}")
    assert equal

# %% [markdown]
# The rotated digit is a 1. The model becomes uncertain as the digit turns, and certain again when
# it is upside down, where it looks like a 1 again.
#
# ![A 1 rotated by 0 to 180 degrees, and its uncertainty](../docs/images/03_export_and_serve.png)

# %%
figure = Figure(figsize=(9, 4.2), layout="constrained")
grid = figure.add_gridspec(2, len(angles), height_ratios=(1, 4))
for i, image in enumerate(turned):
    axes = figure.add_subplot(grid[0, i])
    axes.imshow(image[..., 0], cmap="gray_r")
    axes.set_title(f"{served['mean'][i].argmax()}?", fontsize=10)
    axes.set_axis_off()
axes = figure.add_subplot(grid[1, :])
names = {"predictive_entropy": "o-", "expected_entropy": "s--", "mutual_information": "^:"}
for name, style in names.items():
    axes.plot(angles, served[name][: len(angles)], style, label=name.replace("_", " "))
axes.set(xlabel="degrees the digit is turned", ylabel="nats", xticks=angles)
axes.legend()
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "turned.png", dpi=80)
print(f"Wrote {options.out / 'turned.png'}")
