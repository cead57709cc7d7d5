"""Mixing matrix: a mixer's matrix over the tokens of a row must be the teacher's attention (MOHAWK's first stage)."""

from torch import Tensor

from limbeck.objectives import _mixing
from limbeck.types import Heads, Mixing, Rows

# Under the root, whose slope at 0 would be infinite.
_LEAST = 1e-12


def mixing_matrix(student: Mixing, teacher: Heads, rows: Rows) -> Tensor:
    """The Frobenius norm of M - A, not squared, the mean over heads, shared out over queries (Bick et al., 2024).

    student, teacher: of all tokens of one row. rows: those tokens, of which those that count are the matrices' rows.
    Returns (queries,), never reduced: each gets its part of the squares, times how many count, so that their mean is the
    norm. Documents of a row are blocks of one matrix. Both sides need the same number of heads.
    """
    counted = rows.weights != 0
    squares = _mixing.squares(student, teacher)  # (queries, heads)
    kept = squares * counted.unsqueeze(-1).to(squares)
    norm = kept.sum(0).add(_LEAST).sqrt()
    shares = kept / norm  # whose sum over queries is the norm
    return shares.mean(-1) * counted.sum()
