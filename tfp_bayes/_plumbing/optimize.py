"""Minimization of a function of one number that may have several local minima."""

from collections.abc import Callable

import numpy as np
import scipy.optimize


def minimize_from_grid(
    objective: Callable[[float], float], grid: np.ndarray, tolerance: float = 1e-5
) -> float:
    """Return the minimizer of a function, by a grid search and then a local search.

    Args:
        objective: Function of one number.
        grid: Ascending values (G,) to search first.
        tolerance: Absolute tolerance on the minimizer.
    """
    best = int(np.argmin([objective(each) for each in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = scipy.optimize.minimize_scalar(
        objective, bounds=bounds, method="bounded", options={"xatol": tolerance}
    )
    return float(found.x)
