import golden
import pytest
import tiny
import torch

from limbeck.errors import RecipeError
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.jensen_shannon import jensen_shannon
from limbeck.objectives.reverse_kl import reverse_kl


@pytest.mark.parametrize(
    ("beta", "known"), [(0.5, 0.2101280504), (0.1, 0.0769270335), (0.9, 0.0833617207)]
)
def test_known_values(beta, known):
    found = golden.value(jensen_shannon, golden.TEACHER, golden.STUDENT, beta=beta)
    assert found == pytest.approx(known, abs=5e-11)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("tail", golden.TAILS)
def test_its_ends_are_exactly_forward_and_reverse_kl(normalize, tail):
    teacher, student = tiny.randn(2, 5, 11)
    kept = golden.topk(teacher, 4)
    options = {"temperature": 2.0, "tail": tail}
    for beta, end in ((0.0, forward_kl), (1.0, reverse_kl)):
        found = jensen_shannon(
            student, kept, tiny.rows(5), beta=beta, normalize=normalize, **options
        )
        assert torch.equal(found, end(student, kept, tiny.rows(5), **options))


def test_normalised_it_approaches_both_ends():
    pair = (golden.TEACHER, golden.STUDENT)
    near = golden.value(jensen_shannon, *pair, beta=1e-3, normalize=True)
    assert near == pytest.approx(0.87424, abs=5e-6)
    nearer = golden.value(jensen_shannon, *pair, beta=1e-6, normalize=True)
    assert nearer == pytest.approx(golden.value(forward_kl, *pair), abs=1e-6)
    nearer = golden.value(jensen_shannon, *pair, beta=1 - 1e-6, normalize=True)
    assert nearer == pytest.approx(golden.value(reverse_kl, *pair), abs=1e-6)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_beta_outside_zero_to_one_is_refused(beta):
    with pytest.raises(RecipeError, match="beta"):
        jensen_shannon(golden.STUDENT, golden.TEACHER, tiny.rows(1), beta=beta)
