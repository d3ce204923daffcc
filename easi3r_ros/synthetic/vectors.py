"""What rendering spends its time on: products of many short rows, column by column.

That is faster than einsum for short rows, and than BLAS, whose threads spend more time meeting than multiplying where
the matrix is 3 x 3 (six times the CPU time on a busy machine).
"""

from __future__ import annotations

import numpy as np


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) inner products of the rows of (N, k) with the rows of (N, k), or with one (k,)."""
    total = a[:, 0] * b[..., 0]
    for column in range(1, a.shape[1]):
        total += a[:, column] * b[..., column]
    return total


def length(a: np.ndarray) -> np.ndarray:
    """(N,) Euclidean norms of the rows of (N, k)."""
    return np.sqrt(dot(a, a))


def turned(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N, 3) matrix @ row for every row of (N, 3), in the precision of the rows. matrix: (3, 3)."""
    result = np.empty_like(rows)
    for column, coefficients in enumerate(matrix.astype(rows.dtype)):
        result[:, column] = dot(rows, coefficients)
    return result
