"""One training of an ensemble's network: from its seed to its file."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfp_bayes._plumbing.batches import count_rows
from tfp_bayes._plumbing.fresh import fresh_optimizer, initialize
from tfp_bayes._plumbing.lock import lock_of
from tfp_bayes.inference.adversarial import adversarial_training
from tfp_bayes.inference.saved import load_posterior
from tfp_bayes.inference.stored_posterior import StoredPosterior
from tfp_bayes.inference.training import train

Data = tuple[Any, Any, Any]  # x, y and sample_weight


class Member(NamedTuple):
    """What tells a member from the others, and where it is kept.

    Attributes:
        number: From 1.
        seed: Seed of its weights, noise, order of examples and bootstrap.
        path: File of its weights, as a posterior of one draw.
        bootstrap: Whether it has rows of its own.
        settings: Plain JSON that decides the result beside data and network, for the checkpoint of
            its epochs, which has the name of `path` and an ending of its own; None keeps none.
    """

    number: int
    seed: int
    path: Path
    bootstrap: bool
    settings: dict[str, Any] | None

    def load(self, model: keras.Model) -> list[np.ndarray]:
        """Returns the weights of the trained member, in the order of `model.weights`."""
        return [weight.numpy() for weight in load_posterior(self.path, model).draw(0, None)]

    def choose(self, data: Data) -> Data:
        """Returns the rows that this member learns from."""
        if not self.bootstrap:
            return data
        num_rows = count_rows(data[0])
        rows = np.random.default_rng(self.seed).integers(num_rows, size=num_rows)

        def choose(column):
            return None if column is None else np.asarray(column)[rows]

        return keras.tree.map_structure(choose, data)


def member_seed(seed: int, index: int) -> int:
    """Derives the seed of a member from that of the ensemble; 31 bits fit every library."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)


def train_member(member: Member, model: keras.Model, data: Data, arguments: dict) -> None:
    """Trains a member in place and writes its file; the optimizer is left as it was at the start.

    Args:
        member: The one to train.
        model: Compiled.
        data: Data of all members.
        arguments: Arguments of `train`.
    """
    initialize(model, member.seed, own_seeds=False)
    epochs = None if member.settings is None else member.path.with_suffix(".epochs.npz")
    x, y, sample_weight = member.choose(data)
    with fresh_optimizer(model):
        train(
            model,
            x,
            y,
            sample_weight=sample_weight,
            seed=member.seed,
            path=epochs,
            settings=member.settings,
            **arguments,
        )
    StoredPosterior(model, [weight[None] for weight in model.get_weights()]).save(member.path)
    if epochs is not None:
        for path in (epochs, lock_of(epochs).path):
            path.unlink(missing_ok=True)


def train_in_worker(
    member: Member, model: keras.Model, data: Data, arguments: dict, adversarial: float
) -> None:
    """Trains a member in a process of its own; see `adversarial_training` for the share."""
    with adversarial_training(model, data[0], adversarial):
        train_member(member, model, data, arguments)
