# %% [markdown]
# # Detect a change in the data
#
# Plain TensorFlow serves a Bayesian CNN. In the middle of the stream, all images are rotated by 20
# degrees, as if the camera had been turned. You learn to detect this from the uncertainty alone,
# before labels arrive and with few false alarms, and to use labels when they arrive.
#
# ```bash
# python examples/09_monitor_a_model.py  # a minute on two cores
# ```

# %%
import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from scipy.ndimage import rotate

import tfp_bayes
from tfp_bayes.monitor import UncertaintyMonitor

parser = argparse.ArgumentParser(description="Monitor a served model while its data drift")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--out", type=Path, default=Path("runs/09_monitor_a_model"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none

(x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
num_train, num_reference, num_stream, window = 10_000, 4000, 6000, 300
if options.smoke:
    options.epochs, num_train, num_reference, num_stream, window = 1, 500, 200, 400, 60

rng = np.random.default_rng(0)
order = rng.permutation(len(x_test))
x_test, y_test = x_test[order], y_test[order]

model = tfp_bayes.BayesianCNN(seed=0)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train[:num_train], y_train[:num_train], epochs=options.epochs, verbose=2)
model.export(options.out / "saved_model")
served = tf.saved_model.load(options.out / "saved_model")  # from here on without Keras

# %% [markdown]
# ## The reference
#
# The reference consists of predictions for images that the model was not trained on and predicts
# well. The monitor stores counts in ten bins of each measure. The test images are shuffled, because
# MNIST itself drifts: its last 5,000 test images come from other writers, which would raise an
# alarm.


# %%
def answer(images):
    return served.predict_uncertainty(
        tf.constant(images, tf.float32), tf.constant(20), tf.constant([0, 0])
    )


reference = answer(x_test[:num_reference])
monitor = UncertaintyMonitor.from_reference(reference, window=window, half_life=500)

# %% [markdown]
# ## The stream
#
# Requests have any number of images. The state of the monitor can outlive the server: here it is
# saved and loaded after each request. Labels arrive two windows late.

# %%
images = x_test[num_reference : num_reference + num_stream].astype("float32")
labels = y_test[num_reference : num_reference + num_stream]
start = num_stream // 2
images[start:] = rotate(images[start:], 20, axes=(2, 1), reshape=False, order=1)

cuts = np.unique(np.r_[0, rng.integers(1, num_stream, 60), num_stream])
windows, answered, seen = [], np.zeros((0, 10)), []
for begin, end in pairwise(cuts):
    served_answer = answer(images[begin:end])
    windows += monitor.update(served_answer)
    answered = np.r_[answered, served_answer["mean"]]
    if len(answered) > 2 * window:
        late, answered = np.split(answered, [len(answered) - 2 * window])
        monitor.add_labels(late, labels[end - 2 * window - len(late) : end - 2 * window])
        seen.append(
            (end / window + 0.5, monitor.calibration.accuracy, monitor.calibration.confidence)
        )
    monitor.save(options.out / "monitor.json")
    monitor = UncertaintyMonitor.load(options.out / "monitor.json")

for each in windows:
    print(f"window {each.number:2d}: {'; '.join(each.alarms) or 'no change'}")

# %% [markdown]
# Ten windows raise no alarm; the first one after the rotation does. The longer the monitor runs,
# the smaller a p-value has to be, so that the probability of any false alarm, ever, stays below 5
# %. The accuracy on late labels falls two windows later.
#
# ![p-values of each window, and accuracy as labels arrive](../docs/images/09_monitor_a_model.png)

# %%
figure = Figure(figsize=(8, 5), layout="constrained")
tops, bottoms = figure.subplots(2, sharex=True, height_ratios=(3, 2))
numbers = [each.number for each in windows]
for i, style in enumerate(("o", "s", "^", "v", "D", "x")):
    tests = [each.tests[i] for each in windows]
    name = f"{tests[0].statistic.upper()} of {tests[0].measure.replace('_', ' ')}"
    tops.semilogy(numbers, [max(t.p_value, 1e-30) for t in tests], style, label=name, ms=4)
tops.semilogy(numbers, [each.level for each in windows], "k--", label="alarm below")
tops.set(ylabel="p-value, 1e-30 or less at the bottom")
at, accuracy, confidence = np.array(seen).T
bottoms.plot(at, accuracy, label="accuracy, labels two windows late")
bottoms.plot(at, confidence, "--", label="confidence of the same")
bottoms.set(xlabel="window", xticks=numbers)
for axes in (tops, bottoms):
    axes.axvline(start / window + 0.5, color="gray", lw=1, label="the turn")
    axes.legend(fontsize=7)
figure.savefig(options.out / "monitor.png", dpi=80)
print(f"Wrote {options.out / 'monitor.png'}")
