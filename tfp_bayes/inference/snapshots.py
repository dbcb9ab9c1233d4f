"""Callbacks that record weights during training."""

import warnings
from collections.abc import Iterable, Sequence

import keras
import numpy as np


def current_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the learning rate of the next step."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


class Moments(keras.callbacks.Callback):
    """A recorder of moments and latest values of weights, with a snapshot at the end of each epoch.

    Means and sums of squares follow Welford's algorithm in float64. Computing E[w^2] - E[w]^2 in
    float32 instead would lose the variance of a weight of 0.3 that moves by 0.0001.

    Args:
        variables: The weights to record.
        start: Number of epochs before the first snapshot.
        rank: Number of latest snapshots to keep.
        learning_rate: Learning rate for the epochs with snapshots. None does not change it.

    Attributes:
        count: Number of snapshots so far.
        mean: Mean of each variable, in float64.
        squares: Sum of squared deviations from the mean for each variable, in float64.
        last: The latest snapshots of each variable, at most `rank`.

    Reference:
        Welford 1962, "Note on a Method for Calculating Corrected Sums of Squares and Products".
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        start: int = 0,
        rank: int = 0,
        learning_rate: float | None = None,
    ):
        super().__init__()
        self._variables = list(variables)
        self._start = start
        self._rank = rank
        self._learning_rate = learning_rate
        self._rate = np.inf  # at the last snapshot
        self._losses = [np.nan, np.nan]  # at the first and the last
        self.count = 0
        self.mean = [np.zeros(v.shape) for v in self._variables]
        self.squares = [np.zeros(v.shape) for v in self._variables]
        self.last: list[list[np.ndarray]] = [[] for _ in self._variables]

    def add(self, values: Iterable[np.ndarray]) -> None:
        """Add one snapshot, given as one array for each variable."""
        self.count += 1
        for i, value in enumerate(values):
            value = np.asarray(value, "float64")
            deviation = value - self.mean[i]
            self.mean[i] = self.mean[i] + deviation / self.count
            self.squares[i] = self.squares[i] + deviation * (value - self.mean[i])
            # float64 represents weights of any dtype exactly.
            self.last[i] = [*self.last[i], value][max(0, len(self.last[i]) + 1 - self._rank) :]

    def deviations(self) -> list[np.ndarray]:
        """Return the latest snapshots minus the current mean, (K, ...) for each variable."""
        return [
            np.reshape(last, (len(last), *mean.shape)) - mean
            for last, mean in zip(self.last, self.mean)
        ]

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        """Set the learning rate for epochs with a snapshot."""
        if epoch >= self._start and self._learning_rate is not None:
            self.model.optimizer.learning_rate = self._learning_rate

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        """Take a snapshot, unless the epoch is before the first one."""
        if epoch < self._start:
            return
        self.add(v.numpy() for v in self._variables)
        rate = current_rate(self.model.optimizer)
        if rate < self._rate * (1 - 1e-6) < np.inf:
            warnings.warn(
                f"The learning rate fell to {rate:.3g} while snapshots were taken, so their spread "
                "shrinks. Keep the learning rate constant, for example with learning_rate=0.01.",
                stacklevel=2,
            )
        self._rate = rate
        loss = float((logs or {}).get("loss", np.nan))
        self._losses = [self._losses[0] if self.count > 1 else loss, loss]

    def warn_of_training(self) -> None:
        """Warn if the loss still fell a lot, so the snapshots are of very different networks."""
        first, last = self._losses
        if first - last > abs(first) / 2:
            warnings.warn(
                f"The loss fell from {first:.3g} to {last:.3g} while snapshots were taken, so "
                "their mean mixes untrained with trained networks. Train for more epochs before "
                "the first snapshot.",
                stacklevel=3,
            )

    def get_state(self) -> dict[str, np.ndarray]:
        """See `Recorder`."""
        state = {
            "count": np.array(self.count),
            "rate": np.array(self._rate),
            "losses": np.array(self._losses),
        }
        for i in range(len(self._variables)):
            state[f"mean_{i}"], state[f"squares_{i}"] = self.mean[i], self.squares[i]
            state[f"last_{i}"] = np.array(self.last[i])
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Recorder`."""
        indices = range(len(self._variables))
        self.count, self._rate = int(state["count"]), float(state["rate"])
        self._losses = state["losses"].tolist()
        self.mean = [state[f"mean_{i}"] for i in indices]
        self.squares = [state[f"squares_{i}"] for i in indices]
        self.last = [list(state[f"last_{i}"]) for i in indices]


class Snapshots(keras.callbacks.Callback):
    """A recorder of all weights, including statistics, at the end of selected epochs.

    Args:
        epochs: Numbers of the epochs, counted from 0.
    """

    def __init__(self, epochs: Iterable[int]):
        super().__init__()
        self._epochs = set(epochs)
        self.draws: list[list[np.ndarray]] = []

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        """Take a snapshot, if the epoch is one of those selected."""
        if epoch in self._epochs:
            self.draws.append([_plain(w) for w in self.model.weights])

    def get_state(self) -> dict[str, np.ndarray]:
        """See `Recorder`."""
        return {
            f"{s}_{i}": value for s, draw in enumerate(self.draws) for i, value in enumerate(draw)
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Recorder`."""
        found: dict[int, dict[int, np.ndarray]] = {}
        for name, value in state.items():
            s, i = map(int, name.split("_"))
            found.setdefault(s, {})[i] = value
        self.draws = [[found[s][i] for i in range(len(found[s]))] for s in range(len(found))]


def _plain(weight: keras.Variable) -> np.ndarray:
    """Return the value of a weight, unrounded, in a dtype that .npz files support."""
    value = weight.numpy()
    return value.astype("float32") if value.dtype == "bfloat16" else value
