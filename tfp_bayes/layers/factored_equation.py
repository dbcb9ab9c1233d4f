"""Einsum equations for a kernel that is the product of two factors."""

import math
import re
import string
from typing import NamedTuple


class FactoredEquation(NamedTuple):
    """An einsum with kernel W = A B, written as a map by A followed by a map by B.

    Attributes:
        a: Equation and output shape of the map by A, as `keras.layers.EinsumDense` takes them.
        b: Equation and output shape of the map by B.
        product: Equation that computes W from A and B.
        is_row: For each axis of W, whether it is an axis of A.
    """

    a: tuple[str, tuple[int | None, ...]]
    b: tuple[str, tuple[int | None, ...]]
    product: str
    is_row: tuple[bool, ...]

    def sizes(self, kernel_shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the number of rows and of columns of W as a matrix."""
        both = list(zip(kernel_shape, self.is_row, strict=True))
        return math.prod(n for n, row in both if row), math.prod(n for n, row in both if not row)


def factor_equation(
    equation: str, output_shape: tuple[int | None, ...], rank: int
) -> FactoredEquation:
    """Split "abc,cde->abde" into "abc,cr->abr" and "abr,rde->abde".

    Args:
        equation: Equation of `keras.layers.EinsumDense`.
        output_shape: Output shape of `keras.layers.EinsumDense`, a tuple.
        rank: Size of the new axis.

    Raises:
        ValueError: If the kernel shares an axis with both inputs and outputs, or none with one of
            them.
    """
    inputs, kernel, outputs = re.split(",|->", equation.replace(" ", ""))
    rows = "".join(axis for axis in kernel if axis not in outputs)
    columns = "".join(axis for axis in kernel if axis not in inputs)
    if not rows or not columns or len(rows) + len(columns) != len(kernel):
        raise ValueError(
            "Expected an `equation` whose kernel has axes of inputs and axes of outputs, but no "
            f"axis of both. Received: equation={equation!r}. Hint: along an axis of both, every "
            "index has a separate kernel, and no single low-rank update covers them all."
        )
    new = next(axis for axis in string.ascii_letters if axis not in equation)
    kept = "".join(axis for axis in inputs if axis not in rows)
    # As in Keras, without a leading ellipsis the first letter is the batch axis.
    middle = f"{kept[:-3]}{new}..." if inputs.endswith("...") else kept + new
    named = kept.replace("...", "")
    first = 0 if inputs.startswith("...") else 1
    letters = outputs.replace("...", "")[first:]
    free = tuple(n if axis in columns else None for n, axis in zip(output_shape, letters))
    return FactoredEquation(
        (f"{inputs},{rows}{new}->{middle}", (*[None] * len(named[first:]), rank)),
        (f"{middle},{new}{columns}->{outputs}", free),
        f"{rows}{new},{new}{columns}->{kernel}",
        tuple(axis in rows for axis in kernel),
    )
