"""A clone that begins from a basis of the teacher's stream is the teacher where the basis is whole, and near it else."""

import pytest
import tiny
import torch
from tiny_clones import FAMILIES, materials, teacher

from limbeck.errors import ModelError
from limbeck.models import beginnings, layout, narrowing
from limbeck.models.narrowing import Shape, narrow
from limbeck.students.low_rank_clone import low_rank_clone

each_family = pytest.mark.parametrize("family", FAMILIES)


class Rows:
    """Text for a start that looks at it."""

    rows = 8

    def batch(self, positions):
        return tiny.batch(len(positions), 24, documents=(9, 15), seed=5)


def started(model, width, start, **options):
    torch.manual_seed(0)
    return low_rank_clone(materials(model, Rows()), width=width, start=start, **options)


@each_family
@pytest.mark.parametrize("start", ["orthogonal", "pca"])
@pytest.mark.parametrize("sharing", ["all", "shared"])
def test_a_whole_basis_is_the_teacher_turned(family, start, sharing):
    """Invariant 59: RMSNorm knows no direction once its gains are folded into what reads it."""
    model, ids = teacher(family), tiny.batch(2, 12).input_ids
    student = started(
        model, 24, start, tie_projections=False, attention=sharing, mlp=sharing, rms_norm_eps=1e-12
    )
    model.config.rms_norm_eps = 1e-12
    for one in model.modules():
        if type(one).__name__.endswith("RMSNorm"):
            one.variance_epsilon = 1e-12
    with torch.no_grad():
        found, wanted = student(ids).logits, model(ids).logits
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


def test_unfolded_gains_would_differ():
    """Invariant 59, its second half."""
    model, ids = teacher(), tiny.batch(2, 12).input_ids
    student = narrow(model, Shape(24, tied=False))
    basis, lengths = beginnings.random_basis(model, 24)
    beginnings.rotated(student, model, basis, lengths)
    with torch.no_grad():
        near = (student(ids).logits - model(ids).logits).abs().max()
        for block in layout.layers(student):
            block.mlp.gate_proj.projection.copy_(basis)
        far = (student(ids).logits - model(ids).logits).abs().max()
    assert far > 100 * near


def test_tied_projections_take_the_gains_that_come_nearest():
    """With one projection for table and head, the last norm's gains are the best that a diagonal can be."""
    model = teacher(tie_word_embeddings=True)
    student = started(model, 24, "pca")
    first, last = narrowing.ends(student)
    assert first.projection is last.projection
    batch, final = Rows().batch(range(8)), student.model.norm.weight

    def distance():
        with torch.no_grad():
            mine = batch.pick(layout.hidden(student, batch)) @ first.projection.T
            theirs = batch.pick(layout.hidden(model, batch))
            return float((mine - theirs).square().sum())

    best = distance()
    for number in range(24):
        for change in (0.9, 1.1):
            was = final[number].item()
            with torch.no_grad():
                final[number] = was * change
            assert distance() > best
            with torch.no_grad():
                final[number] = was


def test_a_uniform_last_gain_needs_no_head_of_its_own():
    model, ids = teacher(tie_word_embeddings=True), tiny.batch(2, 12).input_ids
    with torch.no_grad():
        model.model.norm.weight.fill_(0.7)
    for start in ("orthogonal", "pca"):
        student = started(model, 24, start)
        with torch.no_grad():
            gap = (student(ids).logits - model(ids).logits).abs().max()
        assert gap < 1e-3, start


def test_main_directions_keep_a_teacher_that_lives_in_few_of_them():
    """A teacher whose stream has 12 dimensions of 24 is kept whole by its 12 main directions, and not by any 12."""
    model = teacher(initializer_range=0.3)
    keep = torch.linalg.qr(tiny.randn(24, 12, seed=4))[0]
    onto = keep @ keep.T
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ onto)
        for block in layout.layers(model):
            for one in (block.self_attn.o_proj, block.mlp.down_proj):
                one.weight.copy_(onto @ one.weight)
                if one.bias is not None:
                    one.bias.copy_(onto @ one.bias)
    ids = tiny.batch(2, 12).input_ids
    gaps = {}
    for start in ("pca", "orthogonal"):
        student = started(model, 12, start, tie_projections=False)
        with torch.no_grad():
            gaps[start] = float((student(ids).logits - model(ids).logits).abs().max())
    assert gaps["pca"] < 1e-3
    assert gaps["orthogonal"] > 100 * gaps["pca"]


def test_the_basis_is_orthonormal_and_takes_no_gradient():
    for start in ("orthogonal", "pca"):
        student = started(teacher(), 12, start)
        basis = student.model.embed_tokens.projection
        eye = torch.eye(12, dtype=basis.dtype)
        torch.testing.assert_close((basis.T @ basis).detach(), eye, atol=1e-10, rtol=0)
        assert basis.requires_grad


def test_the_papers_start_has_its_spread():
    torch.manual_seed(0)
    student = started(teacher(hidden_size=64), 32, "gaussian")
    drawn = torch.cat(
        [p.detach().flatten() for n, p in student.named_parameters() if "projection" in n]
    )
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.02)
    norms = [p for n, p in student.named_parameters() if n.endswith("norm.weight")]
    assert all(torch.equal(one, torch.ones_like(one)) for one in norms)


def test_text_without_a_token_that_counts_is_refused():
    batch = tiny.batch(2, 12)
    batch.weights.zero_()
    with pytest.raises(ModelError, match="no token that counts"):
        beginnings.principal_basis(teacher(), 12, batch)
