"""Compare the speed of the closed-form head with other libraries: condition, update, predict.

    pip install "tfp_bayes[benchmarks]" && python benchmarks/closed_form.py

There are 60,000 examples, 512 features and 10 outputs. BayesianRidge of scikit-learn has one
output, so it is compared per output. laplace-torch fits a full Gaussian posterior of a last layer,
in a separate process because PyTorch and TensorFlow cannot share one, and only once because it
takes minutes; it is left out if it is not installed. The others take turns; the table shows
medians.
"""

import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time

import numpy as np

N, F, D, TURNS = 60_000, 512, 10, 5


def make_data():
    """Returns features (N, F) and targets (N, D)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, F))
    return x, x @ rng.normal(size=(F, D)) + rng.normal(size=(N, D))


def laplace():
    """Prints the seconds of a last-layer regression fit of laplace-torch."""
    import torch
    from laplace import Laplace
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(os.cpu_count())
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(F, D, bias=False))
    data = TensorDataset(*(torch.from_numpy(a).float() for a in make_data()))
    loader = DataLoader(data, batch_size=1000)
    start = time.perf_counter()
    posterior = Laplace(
        model, "regression", subset_of_weights="last_layer", hessian_structure="full"
    )
    posterior.fit(loader)
    print(time.perf_counter() - start)


def main():
    from sklearn.linear_model import BayesianRidge

    from tfp_bayes.layers import BayesianLinear

    x, y = make_data()
    layer = BayesianLinear(D, use_bias=False)
    layer.condition(x, y)

    def update():
        layer.update(x[:10], y[:10])

    contenders = {
        "one product Phi^T Phi": lambda: x.T @ x,
        "condition, 10 outputs": lambda: layer.condition(x, y),
        "condition with evidence, 10 outputs": lambda: layer.condition(x, y, True),
        "scikit-learn BayesianRidge, 1 output": lambda: BayesianRidge(fit_intercept=False).fit(
            x, y[:, 0]
        ),
        "update by 10 examples": update,
        "score 60,000 examples": lambda: layer.predictive(x),
    }
    seconds = {name: [] for name in contenders}
    for _ in range(TURNS):
        for name, run in contenders.items():
            run()  # gives the busy-waiting threads of the previous contender time to stop
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{platform.machine()}, {os.cpu_count()} CPUs; median of {TURNS} runs\n")
    print("| | ms |\n|---|---|")
    for name, value in median.items():
        print(f"| {name} | {1000 * value:,.1f} |")
    ours = median["condition, 10 outputs"]
    print(f"\nCondition: {ours / median['one product Phi^T Phi']:.2f} products Phi^T Phi")
    ridge = median["scikit-learn BayesianRidge, 1 output"]
    evidence = median["condition with evidence, 10 outputs"]
    print(f"BayesianRidge takes {ridge / (ours / D):.0f} times as long per output as condition,")
    print(f"{ridge / (evidence / D):.0f} times as long as condition with evidence")
    if importlib.util.find_spec("laplace"):
        command = [sys.executable, __file__, "laplace"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peer = float(done.stdout.split()[-1])
        print(f"laplace-torch, last layer, full: {peer:.1f} s, {peer / ours:.0f} times as long")


if __name__ == "__main__":
    laplace() if sys.argv[1:] == ["laplace"] else main()
