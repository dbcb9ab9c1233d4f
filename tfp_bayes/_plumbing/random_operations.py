"""Names of TensorFlow operations that draw random numbers."""

# Substrings of their types. "Normal" and "Uniform" alone would also match operations such as
# BatchNormWithGlobalNormalization and UniformQuantize.
_RANDOM = (
    "Random",
    "Multinomial",
    "TruncatedNormal",
    "StatefulStandardNormal",
    "StatefulUniform",
    "Rng",
    "NonDeterministicInts",
    "CandidateSampler",
    "SampleDistortedBoundingBox",
)


def is_random(operation_type: str) -> bool:
    """Return whether TensorFlow operations of this type draw random numbers.

    The type does not tell from which state they draw: those of a seed that is an input of the
    graph ("Stateless...") count, too.
    """
    return any(each in operation_type for each in _RANDOM)
