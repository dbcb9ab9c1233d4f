"""The equations of a kernel that is a product of two."""

import math
import re
import string
from typing import NamedTuple


class FactoredEquation(NamedTuple):
    """An einsum with a kernel W = A B as two, one after the other.

    Args:
        a: Equation and output shape of the map by A, as `keras.layers.EinsumDense` takes them.
        b: Of the map by B.
        product: Equation of W from A and B.
        is_row: For each axis of W, whether it is one of A.
    """

    a: tuple[str, tuple[int | None, ...]]
    b: tuple[str, tuple[int | None, ...]]
    product: str
    is_row: tuple[bool, ...]

    def sizes(self, kernel_shape: tuple[int, ...]) -> tuple[int, int]:
        """Returns the numbers of rows and columns of W as a matrix."""
        both = list(zip(kernel_shape, self.is_row, strict=True))
        return math.prod(n for n, row in both if row), math.prod(n for n, row in both if not row)


def factor_equation(
    equation: str, output_shape: tuple[int | None, ...], rank: int
) -> FactoredEquation:
    """Splits "abc,cde->abde" into "abc,cr->abr" and "abr,rde->abde".

    Args:
        equation: Of `keras.layers.EinsumDense`.
        output_shape: Of `keras.layers.EinsumDense`, a tuple.
        rank: Size of the new axis.

    Raises:
        ValueError: If an axis of the kernel is in both inputs and outputs.
    """
    inputs, kernel, outputs = re.split(",|->", equation.replace(" ", ""))
    rows = "".join(axis for axis in kernel if axis not in outputs)
    columns = "".join(axis for axis in kernel if axis not in inputs)
    if not rows or not columns or len(rows) + len(columns) != len(kernel):
        raise ValueError(
            "Expected an `equation` whose kernel has axes of inputs and axes of outputs, and none "
            f"of both. Received: equation={equation!r}. Hint: an axis of both has a map for each "
            "index, which has no low-rank update together with the others."
        )
    new = next(axis for axis in string.ascii_letters if axis not in equation)
    kept = "".join(axis for axis in inputs if axis not in rows)
    # As Keras has it, the first letter without a leading ellipsis is the batch.
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
