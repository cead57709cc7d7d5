"""Cross-entropy with the labels: the student must predict the text itself."""

from torch import Tensor

from limbeck.objectives._kept import at_least_float32
from limbeck.types import Rows, TopK


def cross_entropy(student: Tensor, teacher: Tensor | TopK | None, rows: Rows) -> Tensor:  # noqa: ARG001
    """Minus the log-probability that the student gives to each label.

    student: logits (tokens, vocab). teacher: not used, may be None. rows: its labels (tokens,).
    Returns (tokens,), never reduced.
    """
    scores = at_least_float32(student)
    wanted = scores.gather(-1, rows.labels.unsqueeze(-1)).squeeze(-1)  # (tokens,)
    return scores.logsumexp(-1) - wanted
