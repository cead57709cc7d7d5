"""A clone has the teacher's shape but for its width, holds the teacher's tensors, and merges into a plain model."""

import copy

import pytest
import tiny
import tiny_clones
import torch
from tiny_clones import FAMILIES, clone, teacher

from limbeck.errors import ModelError
from limbeck.models import layout, narrowing
from limbeck.models.narrowing import Shape, merged, narrow
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.training.step import Step

each_family = pytest.mark.parametrize("family", FAMILIES)


def identity(model):
    """The clone of full width whose projections are 1 and whose norms are the teacher's."""
    student = narrow(model, Shape(model.config.hidden_size, tied=False))
    with torch.no_grad():
        for name, one in student.named_parameters():
            if name.endswith("projection"):
                torch.nn.init.eye_(one)
            elif one.requires_grad:
                one.copy_(model.get_parameter(name))
    return student


@each_family
def test_the_identity_of_full_width_is_the_teacher(family):
    """Invariant 58: the logits are the teacher's, and so is every tensor that a clone term compares."""
    model, ids = teacher(family), tiny.batch(2, 12).input_ids
    student, seen = identity(model), {}
    for side, one in (("student", student), ("teacher", model)):
        for name, module in one.named_modules():
            if name.endswith("_proj"):
                module.register_forward_hook(
                    lambda m, i, o, key=(side, name): seen.__setitem__(key, o)
                )
    with torch.no_grad():
        found, wanted = student(ids).logits, model(ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    names = {name for side, name in seen if side == "teacher"}
    assert len(names) == 2 * 7
    for name in names:
        torch.testing.assert_close(
            seen["student", name], seen["teacher", name], atol=1e-6, rtol=1e-6
        )


@each_family
@pytest.mark.parametrize("tied_teacher", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("attention", ["all", "shared"])
@pytest.mark.parametrize("mlp", ["all", "shared"])
def test_the_merged_model_says_what_the_clone_says(family, tied_teacher, tied, attention, mlp):
    """Invariant 61, also of an unlocked clone; biases and norms of queries and keys take part."""
    model = teacher(family, tie_word_embeddings=tied_teacher)
    options = {"attention": attention, "mlp": mlp, "tie_projections": tied, "unlock": "all"}
    student, batch = clone(model, **options), tiny.batch(2, 12, documents=(5, 7))
    with torch.no_grad():
        wanted = layout.head(student)(layout.hidden(student, batch))
        plain = merged(student)
        found = layout.head(plain)(layout.hidden(plain, batch))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    both = tied_teacher and tied
    assert plain.config.tie_word_embeddings is both
    assert (plain.lm_head.weight is plain.model.embed_tokens.weight) is both
    assert {type(one) for _, one in plain.named_modules() if "_proj" in _} == {torch.nn.Linear}
    fresh = type(plain)(plain.config)
    assert {n: t.shape for n, t in fresh.state_dict().items()} == {
        n: t.shape for n, t in plain.state_dict().items()
    }


@each_family
def test_the_config_says_what_no_longer_follows(family):
    """Invariant 62: width, heads' width, eps and ties are written; rope and everything else is the teacher's."""
    model = teacher(family, tie_word_embeddings=True)
    student = clone(model, rms_norm_eps=3e-4)
    mine, theirs = student.config.to_dict(), model.config.to_dict()
    assert mine.pop("hidden_size") == 12
    assert mine.pop("head_dim") == 8
    assert mine.pop("rms_norm_eps") == 3e-4
    assert mine["tie_word_embeddings"] is True
    for name in ("hidden_size", "rms_norm_eps", "head_dim"):
        theirs.pop(name, None)
    assert mine == theirs
    assert {one.variance_epsilon for name, one in student.named_modules() if "norm" in name} == {
        3e-4
    }
    rope = layout.trunk(student).rotary_emb, layout.trunk(model).rotary_emb
    assert torch.equal(rope[0].inv_freq, rope[1].inv_freq.to(rope[0].inv_freq))
    assert rope[0].attention_scaling == rope[1].attention_scaling


def test_the_width_of_heads_is_found_where_the_teacher_does_not_say_it():
    model = teacher("qwen2", hidden_size=32, head_dim=8)
    del model.config.head_dim
    assert narrowing.config_of(model.config, Shape(12)).head_dim == 8


@each_family
def test_only_projections_and_the_norms_of_the_stream_learn(family):
    """Invariant 64: nothing of the teacher's gets a gradient, and it is the same to the bit after 3 steps."""
    model = teacher(family)
    student = clone(model)
    before = {n: p.clone() for n, p in student.named_parameters() if not p.requires_grad}
    step = Step(student, vocab=tiny.VOCAB, chunk=5)
    adam = torch.optim.AdamW([p for p in step.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        step(tiny.batch(2, 12), None, [cross_entropy], [1.0])[0].backward()
        adam.step()
    learned = {n for n, p in student.named_parameters() if p.grad is not None}
    norms = {n for n, _ in student.named_parameters() if n.endswith("norm.weight")}
    norms = {n for n in norms if "q_norm" not in n and "k_norm" not in n}
    assert learned - norms == {n for n, _ in student.named_parameters() if "projection" in n}
    assert norms < learned
    assert len(norms) == 2 * 2 + 1
    for name, tensor in before.items():
        assert torch.equal(student.get_parameter(name), tensor), name


def test_the_gradient_reaches_the_projection_of_the_head():
    student = clone(teacher(), tie_projections=False)
    batch = tiny.batch(2, 12)
    step = Step(student, vocab=tiny.VOCAB, chunk=5)
    total, _ = step(batch, None, [cross_entropy], [1.0])
    total.backward()
    found = student.lm_head.projection.grad.clone()
    student.zero_grad()
    logits = student(batch.input_ids).logits.flatten(0, 1)
    rows = tiny.every(batch)
    (cross_entropy(logits, None, rows) * rows.weights).sum().backward()
    torch.testing.assert_close(found, student.lm_head.projection.grad, atol=1e-6, rtol=1e-6)


def test_shared_projections_are_one_parameter():
    student = clone(teacher(tie_word_embeddings=True), attention="shared", mlp="shared")
    block = layout.layers(student)[0]
    attention, mlp = block.self_attn, block.mlp
    assert attention.q_proj.projection is attention.k_proj.projection is attention.v_proj.projection
    assert mlp.gate_proj.projection is mlp.up_proj.projection
    assert attention.q_proj.projection is not mlp.up_proj.projection
    first, last = narrowing.ends(student)
    assert first.projection is last.projection
    assert first.frozen is last.frozen
    assert len([n for n, _ in student.named_parameters() if "projection" in n]) == 2 * 4 + 1


def test_an_unlocked_clone_begins_where_the_locked_one_does():
    """Invariant 68, second half."""
    model, ids = teacher(tie_word_embeddings=True), tiny.batch(2, 12).input_ids
    found = []
    for unlock in ("none", "mlp", "all"):
        student = narrow(model, Shape(12, unlock=unlock))
        with torch.no_grad():
            source = tiny.generator(1)
            for name, one in student.named_parameters():
                if name.endswith("projection"):
                    noise = torch.randn(one.shape, generator=source, dtype=torch.float64)
                    one.copy_(0.3 * noise)
            found.append(student(ids).logits)
        deltas = [n for n, _ in student.named_parameters() if n.endswith("delta")]
        assert len(deltas) == {"none": 0, "mlp": 2 * 3, "all": 2 * 7 + 1}[unlock]
        assert all(".mlp." in n for n in deltas) or unlock == "all"
    torch.testing.assert_close(found[1], found[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(found[2], found[0], atol=1e-10, rtol=0)


def test_a_projected_matrix_has_no_more_ranks_than_the_stream_is_wide():
    """Invariant 68, first half: the MLP is wider than both streams, and what it lacks a delta has."""
    student = clone(teacher(intermediate_size=40))
    gate = layout.layers(student)[0].mlp.gate_proj
    basis = torch.linalg.qr(gate.frozen)[0]  # (out, wide)
    residual = gate.weight - basis @ (basis.T @ gate.weight)
    assert residual.abs().max() < 1e-10
    assert torch.linalg.matrix_rank(gate.weight) <= 12


def test_the_slope_of_a_delta_is_that_of_the_merged_weight():
    """So a stage that trains deltas alone trains the deployed matrices."""
    model = teacher(tie_word_embeddings=True)
    student = clone(model, unlock="all")
    plain = merged(copy.deepcopy(student))
    slopes = []
    for one in (student, plain):
        step = Step(one, vocab=tiny.VOCAB, chunk=5)
        step(tiny.batch(2, 12), None, [cross_entropy], [1.0])[0].backward()
        slopes.append({n: p.grad for n, p in one.named_parameters()})
    compared = 0
    for name, slope in slopes[0].items():
        if name.endswith(".delta"):
            other = slopes[1][name.removesuffix("delta") + "weight"]
            torch.testing.assert_close(slope, other, atol=1e-6, rtol=1e-6)
            compared += 1
    assert compared == 2 * 7 + 1


def test_what_cannot_be_cloned_is_told():
    with pytest.raises(ModelError, match=r"'gemma2' found.*llama, mistral, qwen2, qwen3, smollm3"):
        narrowing.check(tiny_clones.build("gemma2").config, 12)
    for width in (0, 25):
        with pytest.raises(ModelError, match=f"width {width}.*1 to 24"):
            narrowing.check(teacher().config, width)


def test_a_teacher_that_is_packed_in_few_bits_is_refused():
    model = teacher()
    model.model.layers[0].mlp.up_proj = torch.nn.Identity()
    with pytest.raises(ModelError, match=r"mlp\.up_proj of the teacher is a Identity"):
        narrow(model, Shape(12))


def test_a_width_that_the_family_cannot_be_written_with_is_refused_before_it_is_trained():
    with pytest.raises(ModelError, match=r"width 10 .* multiple of its 4 heads, such as 8 or 12"):
        narrow(teacher("llama", num_attention_heads=4), Shape(10))
    assert narrow(teacher("qwen2", num_attention_heads=4), Shape(10)).config.hidden_size == 10


def test_the_weights_that_a_forward_makes_are_counted_once():
    student = narrow(teacher("qwen3"), Shape(16))
    made = [one for one in student.modules() if isinstance(one, narrowing.Linear)]
    assert narrowing.products(student, one_block=False) == sum(m.weight.numel() for m in made)
    first = [m for m in layout.layers(student)[0].modules() if isinstance(m, narrowing.Linear)]
    outside = layout.head(student).weight.numel()
    one = narrowing.products(student, one_block=True)
    assert one == sum(m.weight.numel() for m in first) + outside
    assert narrowing.products(teacher("qwen3"), one_block=False) == 0
