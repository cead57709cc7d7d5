import golden
import pytest
import tiny

from limbeck.errors import RecipeError
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.skew_kl import skew_kl


def test_known_value():
    found = golden.value(skew_kl, golden.TEACHER, golden.STUDENT, alpha=0.1)
    assert found == pytest.approx(0.6797296077, abs=5e-11)
    assert found == golden.value(skew_kl, golden.TEACHER, golden.STUDENT)


def test_small_skew_approaches_forward_kl():
    pair = (golden.TEACHER, golden.STUDENT)
    found = golden.value(skew_kl, *pair, alpha=1e-9)
    assert found == pytest.approx(golden.value(forward_kl, *pair), abs=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_at_an_end_is_refused(alpha):
    with pytest.raises(RecipeError, match="alpha"):
        skew_kl(golden.STUDENT, golden.TEACHER, tiny.rows(1), alpha=alpha)
