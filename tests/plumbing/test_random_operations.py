"""Operations that draw random numbers are known by their types."""

import tensorflow as tf

from tfp_bayes._plumbing.random_operations import is_random

OPERATIONS = [name for name in vars(tf.raw_ops) if name[0].isupper()]


def test_distributions_of_all_kinds_are_random():
    kinds = ("Random", "Multinomial", "TruncatedNormal", "Stateful", "CandidateSampler", "Rng")
    found = [name for name in OPERATIONS if any(kind in name for kind in kinds)]
    found = [name for name in found if "Partitioned" not in name]  # a call of a function
    assert len(found) > 40
    assert all(map(is_random, found))
    for name in ("StatelessTruncatedNormalV2", "StatefulUniformFullInt", "NonDeterministicInts"):
        assert name in OPERATIONS
        assert is_random(name)


def test_others_are_not():
    alike = ("BatchNormWithGlobalNormalization", "UniformQuantize", "FusedBatchNormV3")
    for name in (*alike, "StatefulPartitionedCall", "MatMul"):
        assert name in OPERATIONS
        assert not is_random(name)
