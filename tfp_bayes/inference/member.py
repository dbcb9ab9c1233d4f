"""Training of one member of an ensemble, from its seed to its file."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfp_bayes._plumbing.batches import count_rows
from tfp_bayes._plumbing.fresh import fresh_optimizer, initialize
from tfp_bayes._plumbing.lock import lock_of
from tfp_bayes.inference.adversarial import adversarial_training
from tfp_bayes.inference.materialize import check_finite_draws
from tfp_bayes.inference.saved import load_posterior
from tfp_bayes.inference.stored_posterior import StoredPosterior
from tfp_bayes.inference.training import train

Data = tuple[Any, Any, Any]  # x, y and sample_weight


class Member(NamedTuple):
    """The settings that distinguish a member from the others, and the path of its file.

    Attributes:
        number: Number of the member, counted from 1.
        seed: Seed for its initial weights, noise, order of examples and bootstrap sample.
        path: File for its trained weights, stored as a posterior with one draw.
        bootstrap: Whether the member is trained on a bootstrap sample of the rows.
        settings: Plain JSON that determines the result together with the data and the network. It
            identifies the checkpoint of the member's epochs, which is saved beside `path` with
            another suffix. None saves no checkpoint.
    """

    number: int
    seed: int
    path: Path
    bootstrap: bool
    settings: dict[str, Any] | None

    def load(self, model: keras.Model) -> list[np.ndarray]:
        """Return the weights of the trained member, in the order of `model.weights`."""
        return [weight.numpy() for weight in load_posterior(self.path, model).draw(0, None)]

    def choose(self, data: Data) -> Data:
        """Return the rows that this member is trained on."""
        if not self.bootstrap:
            return data
        num_rows = count_rows(data[0])
        rows = np.random.default_rng(self.seed).integers(num_rows, size=num_rows)

        def choose(column):
            return None if column is None else np.asarray(column)[rows]

        return keras.tree.map_structure(choose, data)


def member_seed(seed: int, index: int) -> int:
    """Derive a member's seed from the ensemble's. It has 31 bits, so every library accepts it."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)


def train_member(member: Member, model: keras.Model, data: Data, arguments: dict) -> None:
    """Train a member in place, write its file, and reset the optimizer to its initial state.

    Args:
        member: The member to train.
        model: Compiled Keras model.
        data: The data for all members.
        arguments: Arguments of `train`.

    Raises:
        ValueError: If training diverged.
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
    check_finite_draws([weight.numpy() for weight in model.weights], model.weights)
    StoredPosterior(model, [weight[None] for weight in model.get_weights()]).save(member.path)
    if epochs is not None:
        for path in (epochs, lock_of(epochs).path):
            path.unlink(missing_ok=True)


def train_in_worker(
    members: dict[int, Member],
    model: keras.Model,
    data: Data,
    arguments: dict,
    adversarial: float,
    number: int,
) -> None:
    """Train the member of a number; `adversarial` is the share of `adversarial_training`."""
    with adversarial_training(model, data[0], adversarial):
        train_member(members[number], model, data, arguments)
