"""The clone's terms are the plain mean squares of both streams, each at its place, and learn through every projection."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_clones
import tiny_run
import torch
from safetensors.torch import load_file
from tiny_clones import TERMS, clone, teacher, tied

from limbeck.errors import ModelError
from limbeck.models import layout, taps
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.recipe import Term
from limbeck.training import links
from limbeck.training.step import Step, terms_at
from limbeck.types import Signal

BLOCKS = (0, 1)


def said(model, batch, terms, *, held=None):
    with torch.no_grad():
        hidden, features, _ = taps.signal(model, batch, links.taps(terms, "teacher"))
    picked = {tap: batch.pick(vectors) for tap, vectors in features.items()}
    if held is not None:
        picked = {tap: vectors[held] for tap, vectors in picked.items()}
    head = layout.head(model)
    return Signal(hidden=batch.pick(hidden), head=head, features=picked, held=held)


def step_of(student, model, terms, coefficients, batch, **said_of):
    """Total, sums and gradients of what learns."""
    student.zero_grad()
    step = Step(student, vocab=tiny.VOCAB, chunk=5)
    total, sums = step(batch, said(model, batch, terms, **said_of), terms, coefficients)
    total.backward()
    return sums, {n: p.grad for n, p in student.named_parameters() if p.grad is not None}


def streams(student, model, batch):
    """All that both streams hold, by hand: the student's inner products are made of weights and hooks' inputs."""
    found = {}
    for side, one in (("s", student), ("t", model)):
        blocks = layout.layers(one)
        for number, block in enumerate(blocks):
            for name, module in block.named_modules():
                if name.endswith(("_proj", "layernorm")):
                    module.register_forward_hook(
                        lambda m, i, o, key=(side, number, name): found.__setitem__(key, (i[0], o))
                    )
        layout.hidden(one, batch)
    return {key: [batch.pick(each.flatten(0, 1)) for each in pair] for key, pair in found.items()}


def by_hand(student, model, batch):
    """The mean square of every term, summed over blocks, as the paper and its code have them."""
    seen, values = streams(student, model, batch), {}
    for number, block in enumerate(layout.layers(student)):
        get = {side: {k[2]: v for k, v in seen.items() if k[:2] == (side, number)} for side in "st"}
        theirs = {name: pair[1].detach() for name, pair in get["t"].items()}
        for term, name in (
            ("attention-query", "self_attn.q_proj"),
            ("attention-key", "self_attn.k_proj"),
            ("attention-value", "self_attn.v_proj"),
            ("mlp-gate", "mlp.gate_proj"),
            ("mlp-up", "mlp.up_proj"),
        ):
            values.setdefault(term, []).append(get["s"][name][1] - theirs[name])
        for term, name, norm in (
            ("attention-in", "self_attn.q_proj", "input_layernorm"),
            ("mlp-in", "mlp.gate_proj", "post_attention_layernorm"),
        ):
            projection = block.get_submodule(name).projection
            values.setdefault(term, []).append(get["s"][name][0] @ projection.T - theirs[norm])
        for term, inside, name in (
            ("attention-out-projected", "attention-out", "self_attn.o_proj"),
            ("mlp-out", "mlp-out-inside", "mlp.down_proj"),
        ):
            layer = block.get_submodule(name)
            through = theirs[name] @ layer.projection.T
            values.setdefault(term, []).append(get["s"][name][1] - through)
            bias = 0 if layer.bias is None else layer.bias
            middle = get["s"][name][0] @ layer.frozen.T + bias
            values.setdefault(inside, []).append(middle - theirs[name])
    weights = batch.rows.weights
    return {
        term: sum((gap.square().mean(-1) * weights).sum() for gap in gaps)
        for term, gaps in values.items()
    }


@pytest.mark.parametrize("sharing", ["all", "shared"])
@pytest.mark.parametrize("name", TERMS)
def test_each_term_is_the_plain_mean_square(name, sharing):
    """Sum over blocks, mean over channels; gradients to every projection and norm are those of the plain way."""
    model = teacher()
    student = clone(model, attention=sharing, mlp=sharing, unlock="mlp")
    batch = tiny.batch(2, 12, documents=(5, 7))
    sums, found = step_of(student, model, [tied(name)], [0.7], batch)
    wanted = by_hand(student, model, batch)[name]
    torch.testing.assert_close(sums[0], wanted.detach(), atol=1e-9, rtol=1e-9)
    student.zero_grad()
    (0.7 * wanted).backward()
    slopes = {n: p.grad for n, p in student.named_parameters() if p.grad is not None}
    assert found.keys() == slopes.keys()
    for key, slope in slopes.items():
        torch.testing.assert_close(found[key], slope, atol=1e-9, rtol=1e-9, msg=key)


def test_the_projection_learns_from_both_sides():
    model = teacher()
    student, batch = clone(model), tiny.batch(2, 12)
    name = "model.layers.1.mlp.down_proj.projection"
    _, both = step_of(student, model, [tied("mlp-out")], [1.0], batch)
    student.zero_grad()
    seen = streams(student, model, batch)
    layer = student.model.layers[1].mlp.down_proj
    with torch.no_grad():
        through = seen["t", 1, "mlp.down_proj"][1] @ layer.projection.T
    gap = (seen["s", 1, "mlp.down_proj"][1] - through).square().mean(-1)
    (gap * batch.rows.weights).sum().backward()
    assert (both[name] - layer.projection.grad).abs().max() > 1e-3


def test_all_terms_are_nothing_where_the_clone_is_the_teacher():
    """Invariant 58."""
    from models.test_narrowing import identity

    model, batch = teacher(), tiny.batch(2, 12)
    terms = [tied(name) for name in TERMS]
    asked = [*terms, forward_kl]
    sums, _ = step_of(identity(model), model, asked, [1.0] * len(asked), batch)
    assert float(sums.abs().max()) < 1e-10


def test_cloned_gates_need_no_map_of_their_own():
    """Invariant 60, the paper's lemma: with the teacher's gate and up, the MLP says P times what the teacher's says."""
    model, batch = teacher(), tiny.batch(2, 12)
    student = clone(model)
    activations = {}
    for block in layout.layers(model):
        block.mlp.register_forward_hook(lambda m, i, o: activations.__setitem__("out", o))
        for name in ("gate_proj", "up_proj"):
            block.mlp.get_submodule(name).register_forward_hook(
                lambda m, i, o, name=name: activations.__setitem__(name, o)
            )
        layout.hidden(model, batch)
        break
    mine = layout.layers(student)[0].mlp
    for name in ("gate_proj", "up_proj"):
        mine.get_submodule(name).register_forward_hook(lambda m, i, o, n=name: activations[n])
    out = []
    mine.register_forward_hook(lambda m, i, o: out.append(o))
    sums, _ = step_of(student, model, [tied("mlp-out", (0,))], [1.0], batch)
    wanted = activations["out"] @ mine.down_proj.projection.T
    torch.testing.assert_close(out[0], wanted, atol=1e-9, rtol=1e-9)
    assert float(sums[0]) < 1e-12


def test_terms_add_up_over_blocks_and_weights():
    """Invariant 67: a term is the sum of its blocks, and the total is linear in each weight."""
    model, batch = teacher(), tiny.batch(2, 12)
    student = clone(model)
    each = [step_of(student, model, [tied("mlp-gate", (b,))], [1.0], batch) for b in BLOCKS]
    both, slopes = step_of(student, model, [tied("mlp-gate")], [1.0], batch)
    torch.testing.assert_close(both[0], each[0][0][0] + each[1][0][0], atol=1e-10, rtol=0)
    _, doubled = step_of(student, model, [tied("mlp-gate")], [2.0], batch)
    for name, slope in slopes.items():
        torch.testing.assert_close(doubled[name], 2 * slope, atol=1e-10, rtol=0)


def test_leaving_one_term_out_takes_away_exactly_its_part():
    """Invariant 67."""
    model, batch = teacher(), tiny.batch(2, 12)
    student, names = clone(model), ["attention-query", "mlp-gate", "mlp-out"]
    _, whole = step_of(student, model, [tied(name) for name in names], [0.2] * 3, batch)
    _, alone = step_of(student, model, [tied("mlp-gate")], [0.2], batch)
    kept = [name for name in names if name != "mlp-gate"]
    _, rest = step_of(student, model, [tied(name) for name in kept], [0.2] * 2, batch)
    for name, slope in whole.items():
        parts = [one[name] for one in (alone, rest) if name in one]
        # Norms compute in float32, also in a model of float64.
        torch.testing.assert_close(slope, sum(parts), atol=1e-5, rtol=1e-5, msg=name)


def test_blocks_that_run_again_learn_the_same():
    """Activation checkpointing finds what was shown and given made again, also after another forward's wishes."""
    model, batch = teacher(), tiny.batch(2, 12, documents=(5, 7))
    terms, found = [cross_entropy, *(tied(name) for name in TERMS)], []
    for again in (False, True):
        student = clone(model)
        if again:
            student.gradient_checkpointing_enable({"use_reentrant": False})
        student.train()
        step_of(student, model, [cross_entropy], [1.0], tiny.batch(1, 6))
        found.append(step_of(student, model, terms, [0.3] * len(terms), batch))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-12, rtol=0)
    assert found[0][1].keys() == found[1][1].keys()
    for name, slope in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], slope, atol=1e-11, rtol=0)


def test_nothing_extra_is_made_where_nobody_looks():
    model, batch = teacher(), tiny.batch(2, 12)
    student = clone(model)
    step_of(student, model, [tied("mlp-in"), tied("mlp-out")], [1.0, 1.0], batch)
    shown = [n for n, one in tiny_clones.narrow_layers(student).items() if one.shown]
    assert shown == [f"model.layers.{b}.mlp.gate_proj" for b in BLOCKS]
    Step(student, vocab=tiny.VOCAB)(batch, None, [cross_entropy], [1.0])
    layers = tiny_clones.narrow_layers(student).values()
    assert not any(one.shown for one in layers)
    assert all(vars(one).get("given") is None for one in layers)


def test_a_teacher_that_holds_few_tokens_is_projected_on_those():
    model, batch = teacher(), tiny.batch(2, 12)
    held = torch.tensor([0, 3, 4, 11, 17])
    student, term = clone(model), tied("mlp-out")
    sums, _ = step_of(student, model, [term], [1.0], batch, held=held)
    seen, total = streams(student, model, batch), 0.0
    for number in BLOCKS:
        layer = layout.layers(student)[number].mlp.down_proj
        theirs = seen["t", number, "mlp.down_proj"][1] @ layer.projection.T
        gap = seen["s", number, "mlp.down_proj"][1] - theirs
        total = total + gap.square().mean(-1)
    row = batch.counted // 12
    for number in range(2):
        mine = held[row[held] == number]
        share = float(batch.weights[number].sum()) / len(mine)
        sums = sums - total.detach()[mine].sum() * share
    assert abs(float(sums[0])) < 1e-4


def test_other_layers_project_no_teacher():
    student = clone(teacher())
    with pytest.raises(ModelError, match=r"q_proj' is a NarrowIn, which projects nothing.*down"):
        taps.projecting(student, "layers.0.self_attn.q_proj")
    assert taps.projecting(student, "layers.1.mlp.down_proj").projection.shape == (12, 24)


def test_the_papers_kl_is_a_weight_of_ours():
    """Invariant 65: batchmean over (batch, time, vocab) without temperature squared, T = 2048 and 40."""
    time = 2048
    mine, theirs = tiny.randn(2, time, 7, seed=1), tiny.randn(2, time, 7, seed=2)
    theirs_code = torch.nn.functional.kl_div(
        (mine / 40).log_softmax(-1), (theirs / 40).softmax(-1), reduction="batchmean"
    )
    term = Term.model_validate({"forward_kl": {"weight": 1.28, "temperature": 40}})
    ((function,), (weight,)) = terms_at([forward_kl], [term], 0.0)
    rows = tiny.rows(2 * time)
    ours = weight * function(mine.flatten(0, 1), theirs.flatten(0, 1), rows).mean()
    torch.testing.assert_close(ours, theirs_code, atol=1e-9, rtol=0)


def test_joints_know_what_is_handed():
    terms = [tied("mlp-out"), tied("mlp-gate"), cross_entropy]
    features = {
        f"layers.{b}.mlp.{n}_proj": torch.full((1, 1), b) for b in BLOCKS for n in ("down", "gate")
    }
    found = links.handed(terms, replace(Signal(), features=features))
    assert {tap: float(one) for tap, one in found.items()} == {
        "layers.0.mlp.down_proj": 0.0,
        "layers.1.mlp.down_proj": 1.0,
    }
    assert links.handed(terms, None) == {}


@pytest.mark.parametrize("what", [pytest.param("clone", marks=pytest.mark.slow), "clone-alone"])
def test_two_ranks_give_the_gradients_of_one(tmp_path, what):
    """Also where no term is on what is said, so that no gradient enters the last block from above."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", Path(__file__).with_name("two_ranks.py"), what, tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "gradients.safetensors")
    work = tiny_clones.job(tmp_path / "one", alone=what == "clone-alone")
    wanted = {n: g for n, g in tiny_run.gradients(work).items() if g is not None}
    assert found.keys() == wanted.keys()
    for name, slope in wanted.items():
        torch.testing.assert_close(found[name], slope, atol=1e-6, rtol=1e-6, msg=name)
