"""Criteria that stop a run."""

import pytest

from tfp_bayes.active import Round
from tfp_bayes.active.stopping import Budget, Certain, Plateau, Target, all_of, any_of, get


def history(**columns):
    rows = zip(*columns.values())
    return [Round(i, 0, 0, **dict(zip(columns, values))) for i, values in enumerate(rows)]


def stops_at(criterion, rows):
    """Return the first round after which a criterion stops, or None if it never does."""
    return next((i for i in range(len(rows)) if criterion(rows[: i + 1])), None)


@pytest.mark.parametrize(
    ("criterion", "columns", "expected"),
    [
        (Budget(25), {"num_asked": [0, 10, 10, 10]}, 3),
        (Budget(20), {"num_asked": [0, 10, 10, 10]}, 2),
        (Target(accuracy=0.9), {"validation_accuracy": [0.5, 0.9, 0.95]}, 1),
        (Target(nll=0.3), {"validation_nll": [1.0, 0.4, 0.3]}, 2),
        (Target(accuracy=0.9), {"validation_accuracy": [float("nan")] * 3}, None),
        (Plateau(2), {"validation_nll": [1.0, 0.5, 0.51, 0.499, 0.2]}, 3),
        (Plateau(2), {"validation_nll": [1.0, 0.9, 0.8, 0.7, 0.6]}, None),
        (Certain(0.1), {"pool_uncertainty": [float("nan"), 0.3, 0.1]}, 2),
    ],
)
def test_criterion(criterion, columns, expected):
    assert stops_at(criterion, history(**columns)) == expected


def test_both_targets():
    rows = history(validation_accuracy=[0.9, 0.8, 0.95], validation_nll=[0.5, 0.2, 0.2])
    assert stops_at(Target(accuracy=0.9, nll=0.3), rows) == 2


def test_combined():
    rows = history(num_asked=[0, 10, 10, 10], validation_accuracy=[0.5, 0.95, 0.8, 0.95])
    budget, target = Budget(20), Target(accuracy=0.9)
    assert stops_at(any_of(budget, target), rows) == 1
    assert stops_at(all_of(budget, target), rows) == 3


def test_short_forms():
    assert get("labels=200") == Budget(200)
    assert get("accuracy=0.95") == Target(accuracy=0.95)
    assert get("nll=-1.5") == Target(nll=-1.5)
    assert get("plateau=5") == Plateau(5)
    assert get("uncertainty=0.05") == Certain(0.05)
    assert get(None) is get([]) is None
    assert get(Budget(3)) == Budget(3)
    either = get(["labels=20", Target(accuracy=0.5)])
    assert stops_at(either, history(num_asked=[0, 10, 10], validation_accuracy=[0, 0, 0])) == 2
    assert stops_at(either, history(num_asked=[0, 10, 10], validation_accuracy=[0, 0.6, 0])) == 1


@pytest.mark.parametrize(
    "stop", ["labels", "labels=inf", "labels=0", "plateau=1.5", "accuracy=95", 200, [200], [None]]
)
def test_short_forms_refused(stop):
    with pytest.raises(ValueError, match=r"Expected NAME=VALUE, .* Received: stop=.* Hint: "):
        get(stop)
