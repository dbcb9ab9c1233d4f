"""Compare the speed of variational layers with other libraries: training and prediction.

    pip install "tfp_bayes[benchmarks]" && python benchmarks/variational.py

The script measures images per second for Gal's network, in `fit` with batches of 64 and in
predictive passes over 1,000 images. It compares this library with TensorFlow Probability's layers
under tf_keras and with bayesian-torch. Each library has its own process. They take turns, so that a
drift of the machine's speed affects all equally; the table shows medians. Without the extra,
bayesian-torch is left out.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

BATCH_SIZE, NUM_STEPS = 64, 100
NUM_IMAGES, NUM_PASSES = 1000, 10
NUM_TRAIN = BATCH_SIZE * NUM_STEPS


def batches(x, y):
    """Returns a data set that feeds `fit` at the same speed in Keras 2 and Keras 3.

    For arrays, TensorFlow tunes the input pipeline in a thread that `fit` waits for at its end, for
    up to as long as it ran. This wait would hide the training time.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_tensor_slices((x[:NUM_TRAIN], y[:NUM_TRAIN]))
    return dataset.batch(BATCH_SIZE).with_options(options)


def ours():
    """Yields (name, images per run, run) for every inference of this library."""
    import keras
    import tensorflow as tf

    import tfp_bayes

    data = tfp_bayes.datasets.load("mnist")
    train_data = batches(data.x_train, data.y_train)
    for inference in ("deterministic", "reparameterization", "local_reparameterization", "flipout"):
        # The deterministic network is an ordinary Keras network, without prior or dropout.
        plain = {"dropout_rates": (0, 0), "prior_scale": None}
        model = tfp_bayes.BayesianCNN(
            inference=inference, **(plain if inference == "deterministic" else {})
        )
        model.compile("adam", "sparse_categorical_crossentropy")

        def train(model=model):
            model.fit(train_data, verbose=0)

        yield f"train, {inference}", NUM_TRAIN, train
        passes = 1 if inference == "deterministic" else NUM_PASSES

        def predict(model=model, passes=passes):
            model.predict_uncertainty(data.x_test[:NUM_IMAGES], passes, 0, batch_size=NUM_IMAGES)

        yield f"predict, {inference}", NUM_IMAGES * passes, predict
    layers = tfp_bayes.layers.variational_layers(model)

    @tf.function
    def draw_kernels():
        def step(s, total):
            seed = tf.stack([s, 0])
            return s + 1, total + tf.add_n(
                [tf.reduce_sum(layer.random_kernel.draw(seed).value) for layer in layers]
            )

        return tf.while_loop(lambda s, _: s < NUM_PASSES, step, (0, 0.0))[1]

    yield "predict, drawing the kernels alone", NUM_IMAGES * NUM_PASSES, draw_kernels
    keras.backend.clear_session()


def tfp():
    """Yields the same for `tfp.layers`, whose Keras is tf_keras."""
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras

    from tfp_bayes import datasets

    data = datasets.load("mnist")
    train_data = batches(data.x_train.astype("float32") / 255, data.y_train)
    images = tf.constant(data.x_test[:NUM_IMAGES].astype("float32") / 255)

    def divergence(q, p, _):
        return tfp.distributions.kl_divergence(q, p) / NUM_TRAIN

    for estimator in ("Reparameterization", "Flipout"):
        conv = getattr(tfp.layers, "Convolution2D" + estimator)
        dense = getattr(tfp.layers, "Dense" + estimator)
        kl = {"kernel_divergence_fn": divergence}
        model = tf_keras.Sequential(
            [
                tf_keras.Input((28, 28, 1)),
                conv(32, 4, activation="relu", **kl),
                conv(32, 4, activation="relu", **kl),
                tf_keras.layers.MaxPooling2D(2),
                tf_keras.layers.Flatten(),
                dense(128, activation="relu", **kl),
                dense(10, activation="softmax", **kl),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy")

        def train(model=model):
            model.fit(train_data, verbose=0)

        yield f"train, {estimator.lower()}", NUM_TRAIN, train
        one_pass = tf.function(model)

        def predict(one_pass=one_pass):
            for _ in range(NUM_PASSES):
                one_pass(images).numpy()

        yield f"predict, {estimator.lower()}", NUM_IMAGES * NUM_PASSES, predict


def bayesian_torch():
    """Yields the same for bayesian-torch."""
    import torch
    from bayesian_torch import layers
    from torch import nn

    from tfp_bayes import datasets

    torch.set_num_threads(os.cpu_count())
    data = datasets.load("mnist")
    x = torch.from_numpy(data.x_train[:NUM_TRAIN]).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(data.y_train[:NUM_TRAIN])
    images = torch.from_numpy(data.x_test[:NUM_IMAGES]).permute(0, 3, 1, 2).float() / 255

    class Network(nn.Module):
        def __init__(self, estimator):
            super().__init__()
            conv = getattr(layers, "Conv2d" + estimator)
            dense = getattr(layers, "Linear" + estimator)
            self.convs = nn.ModuleList([conv(1, 32, 4), conv(32, 32, 4)])
            self.denses = nn.ModuleList([dense(3872, 128), dense(128, 10)])

        def forward(self, x):
            total = 0
            for conv in self.convs:
                x, kl = conv(x)
                x, total = x.relu(), total + kl
            x = nn.functional.max_pool2d(x, 2).flatten(1)
            x, kl = self.denses[0](x)
            x, last = self.denses[1](x.relu())
            return x, total + kl + last

    for estimator in ("Reparameterization", "Flipout"):
        model = Network(estimator)
        optimizer = torch.optim.Adam(model.parameters())

        def train(model=model, optimizer=optimizer):
            for i in range(0, NUM_TRAIN, BATCH_SIZE):
                logits, kl = model(x[i : i + BATCH_SIZE])
                loss = nn.functional.cross_entropy(logits, y[i : i + BATCH_SIZE]) + kl / NUM_TRAIN
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        yield f"train, {estimator.lower()}", NUM_TRAIN, train

        def predict(model=model):
            with torch.no_grad():
                for _ in range(NUM_PASSES):
                    model(images)[0].softmax(-1)

        yield f"predict, {estimator.lower()}", NUM_IMAGES * NUM_PASSES, predict


LIBRARIES = {"tfp_bayes": ours, "tfp.layers": tfp, "bayesian-torch": bayesian_torch}


def serve(library):
    """Runs in a separate process: executes the requested runs and prints their seconds."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps the output of libraries out of the answers
    try:
        runs = list(LIBRARIES[library]())
    except ImportError as error:
        print(f"missing: {error}", file=out, flush=True)
        return
    print(repr([(name, images) for name, images, _ in runs]), file=out, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        runs[int(line)][2]()
        print(time.perf_counter() - start, file=out, flush=True)


def start(library):
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"} if library == "tfp.layers" else None
    return subprocess.Popen(
        [sys.executable, __file__, "--serve", library],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    workers, rates = {}, {}
    for library in LIBRARIES:
        workers[library] = start(library)
        answer = workers[library].stdout.readline()
        if not answer.startswith("["):
            print(f"{library} is left out: {answer.strip() or 'it failed to start'}")
            continue
        for i, (name, images) in enumerate(eval(answer)):
            rates[library, name] = (i, images, [])
    for turn in range(options.repeats + 1):
        for (library, _), (i, images, values) in rates.items():
            worker = workers[library]
            print(i, file=worker.stdin, flush=True)
            seconds = float(worker.stdout.readline())
            if turn:  # the first turn traces and warms up
                values.append(images / seconds)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    median = {key: statistics.median(values) for key, (_, _, values) in rates.items()}
    print(f"\n{platform.machine()}, {os.cpu_count()} CPUs; median of {options.repeats} runs\n")
    print("| images/s | " + " | ".join(LIBRARIES) + " |\n|---|" + "---|" * len(LIBRARIES))
    for name in dict.fromkeys(name for _, name in rates):
        cells = [f"{median[lib, name]:,.0f}" if (lib, name) in median else "" for lib in LIBRARIES]
        print(f"| {name} | " + " | ".join(cells) + " |")

    def ratio(task, library, estimator, other="tfp_bayes"):
        key = (library, f"{task}, {estimator}")
        return median[other, f"{task}, {estimator}"] / median[key] if key in median else None

    base = median["tfp_bayes", "train, deterministic"]
    print()
    for estimator in ("reparameterization", "local_reparameterization", "flipout"):
        print(f"train, {estimator}: {median['tfp_bayes', f'train, {estimator}'] / base:.2f} of the")
        print("  speed of the deterministic network")
    for task in ("train", "predict"):
        for estimator in ("reparameterization", "flipout"):
            for library in ("tfp.layers", "bayesian-torch"):
                value = ratio(task, library, estimator)
                if value is not None:
                    print(f"{task}, {estimator}: {value:.2f} times {library}")
    share = (
        median["tfp_bayes", "predict, flipout"]
        / median["tfp_bayes", "predict, drawing the kernels alone"]
    )
    print(f"drawing the kernels: {share:.1%} of a pass over {NUM_IMAGES} images")


if __name__ == "__main__":
    main()
