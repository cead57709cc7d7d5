"""What a stage trains is what it names without what it freezes; what is frozen stays bit by bit."""

import pytest
import tiny
import tiny_clones
import tiny_families
import tiny_hybrid
import torch
from tiny_families import build

from limbeck.errors import LimbeckError, RecipeError
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.recipe import Optimizer, Stage
from limbeck.training import optim
from limbeck.training.step import Step
from limbeck.training.trained import GROUPS, counts, trainable


def stage(**changes):
    plain = {"name": "only", "source": "text", "budget": "1 steps", "objective": ["cross_entropy"]}
    return Stage.model_validate(plain | changes)


def student(mixer="discrete_mamba2", kind="llama"):
    return tiny_hybrid.rough(tiny_hybrid.teacher(kind), mixer, [1])


def names(model):
    return {name for name, _ in model.named_parameters()}


def holding(model, *parts):
    return {name for name in names(model) if any(part in name for part in parts)}


FROZEN = {
    "mlp": (".feed_forward.",),
    "mixers": (".mamba.",),
    "attention": (".self_attn.",),
    "kept_layers": (".layers.1.",),
    "norms": ("norm",),
    "embeddings": ("embed_tokens",),
    "head": ("lm_head",),
}


@pytest.mark.parametrize("mixer", tiny_hybrid.MIXERS)
@pytest.mark.parametrize("word", GROUPS)
def test_each_word_stands_for_its_part(word, mixer):
    model = student(mixer)
    frozen = holding(model, *FROZEN[word])
    assert frozen
    assert trainable(model, stage(freeze=[word])) == names(model) - frozen


def test_a_projection_that_several_matrices_share_is_frozen_under_each_of_their_names():
    clone = tiny_clones.clone(tiny_clones.teacher("qwen3"), attention="shared")
    every = trainable(clone, stage())
    shared = {name for name in every if name.endswith("self_attn.q_proj.projection")}
    assert shared
    for word in ("*.self_attn.v_proj.*", "*.k_proj.projection", "*.q_proj.*"):
        assert trainable(clone, stage(freeze=[word])) == every - shared
    assert trainable(clone, stage(train=["*.v_proj.projection"])) == shared
    table = {name for name in every if "embed_tokens" in name}
    assert trainable(clone, stage(freeze=["lm_head.*"])) == every - table


def test_a_tied_head_is_frozen_with_its_embedding():
    model = student(kind="llama, tied")
    for word in ("embeddings", "head"):
        left = trainable(model, stage(freeze=[word]))
        assert left == names(model) - {"model.embed_tokens.weight"}


def test_patterns_and_words_go_together_and_train_comes_first():
    model = student()
    asked = stage(train=["*.layers.*"], freeze=["*.D", "mlp", "kept_layers"])
    wanted = holding(model, ".layers.") - holding(model, ".D", ".feed_forward.", ".layers.1.")
    assert trainable(model, asked) == wanted
    assert counts(model, wanted) == (
        sum(p.numel() for n, p in model.named_parameters() if n in wanted),
        sum(p.numel() for p in model.parameters()),
    )


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_every_family_has_the_parts_that_words_stand_for(family):
    model = build(family)
    attention = names(model) - trainable(model, stage(freeze=["attention"]))
    assert {name for name in attention if "norm" not in name} == {
        name
        for name in names(model)
        if "attn." in name or "attention." in name
        if "norm" not in name
    }
    assert trainable(model, stage(freeze=["mlp"])) < names(model)
    for word in ("embeddings", "head"):
        frozen = names(model) - trainable(model, stage(freeze=[word]))
        assert 1 <= len(frozen) <= 2
    if family != "olmo":  # whose norms have no parameters
        assert trainable(model, stage(freeze=["norms"])) < names(model)


@pytest.mark.parametrize("frozen", [["mlp"], ["mixers", "norms"], ["kept_layers"], ["embeddings"]])
@pytest.mark.parametrize("mixer", tiny_hybrid.MIXERS)
def test_what_is_frozen_has_no_gradient_and_stays_bit_by_bit(mixer, frozen):
    model = student(mixer)
    learns = trainable(model, stage(freeze=frozen))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learns)
    step = Step(model, vocab=tiny.VOCAB)
    adam = optim.adamw(step, Optimizer(learning_rate=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(tiny.batch(), None, [cross_entropy], [1.0])[0].backward()
    adam.step()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in learns), name
        assert torch.equal(parameter, before[name]) != (name in learns), name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": ["*.nothing.*"]}, r"train \['\*\.nothing\.\*'\] matches no parameter; such as"),
        ({"train": ["*.mamba.*"], "freeze": ["mixers"]}, "leaves nothing of train"),
        ({"freeze": ["*"]}, "leaves nothing of train"),
        (
            {"freeze": ["mixer"]},
            r"freeze 'mixer': LimbeckLlambaForCausalLM matches no parameter\. Did you",
        ),
        ({"freeze": ["*.nothing"]}, r"freeze '\*\.nothing': .* matches no parameter"),
    ],
)
def test_what_trains_nothing_or_names_nothing_is_refused(changes, told):
    with pytest.raises(RecipeError, match=told):
        trainable(student(), stage(**changes))


def test_words_of_hybrids_are_refused_for_others():
    for word, told in (("mixers", "has none"), ("kept_layers", "every block of this student")):
        with pytest.raises(LimbeckError, match=told):
            trainable(tiny.llama(), stage(freeze=[word]))
