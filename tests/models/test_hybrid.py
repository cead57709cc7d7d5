"""A hybrid with every attention kept is its teacher, what moves moves bit by bit, and what cannot be one is refused."""

import pytest
import tiny
import tiny_hybrid
import torch
from tiny_hybrid import MIXERS, TEACHERS, made, rough, teacher
from transformers import BambaForCausalLM

from limbeck.errors import ModelError, RecipeError
from limbeck.models import hybrid, layout, load
from limbeck.students.hybrid import kept_blocks

each_mixer = pytest.mark.parametrize("mixer", MIXERS)
each_teacher = pytest.mark.parametrize("kind", TEACHERS)


@torch.no_grad()
def logits(model, **given):
    return model(**given, use_cache=False).logits


@each_mixer
@each_teacher
def test_a_hybrid_that_keeps_every_attention_has_the_teachers_logits(kind, mixer):
    origin = teacher(kind)
    student = made(origin, mixer, "all")
    given = {"input_ids": tiny_hybrid.ids(3)}
    assert torch.equal(logits(student, **given), logits(origin, **given))


@each_mixer
@each_teacher
def test_so_it_has_with_padding_on_the_left(kind, mixer):
    origin, (rows, whole, mask, positions) = teacher(kind), tiny_hybrid.padded()
    student = made(origin, mixer, "all")
    given = {"input_ids": whole, "attention_mask": mask, "position_ids": positions}
    seen = mask.bool()
    found = logits(student, **given)
    assert torch.equal(found[seen], logits(origin, **given)[seen])
    for number, row in enumerate(rows):
        alone = logits(student, input_ids=row)[0]
        torch.testing.assert_close(found[number, -row.shape[1] :], alone, atol=1e-5, rtol=0)


@each_mixer
@each_teacher
def test_so_it_has_of_packed_rows(kind, mixer):
    origin, batch = teacher(kind), tiny.batch(2, 17, documents=(6, 1, 10))
    student = made(origin, mixer, "all")
    with torch.no_grad():
        found, wanted = (layout.head(m)(layout.hidden(m, batch)) for m in (student, origin))
        leaking = layout.head(student)(
            layout.trunk(student)(batch.input_ids, use_cache=False).last_hidden_state.flatten(0, 1)
        )
    assert torch.equal(found, wanted)
    assert not torch.allclose(found, leaking, atol=1e-3)


@each_mixer
@pytest.mark.parametrize("keep", ["none", [1]])
def test_packed_documents_of_a_hybrid_are_as_if_alone(mixer, keep):
    student = rough(teacher(dtype=torch.float64), mixer, keep).eval()
    batch = tiny.batch(2, 17, documents=(6, 1, 10))
    with torch.no_grad():
        together = layout.hidden(student, batch).unflatten(0, (2, 17))
        for start, end in ((0, 6), (6, 7), (7, 17)):
            alone = layout.trunk(student)(batch.input_ids[:, start:end], use_cache=False)
            found = together[:, start:end]
            # Norms and states of transformers' own mixer pass through float32.
            torch.testing.assert_close(found, alone.last_hidden_state, atol=2e-6, rtol=2e-6)


@each_mixer
def test_so_it_has_in_bfloat16(mixer):
    origin = teacher("llama, llama3 positions")
    student = made(origin, mixer, "all").bfloat16()
    exact = logits(origin, input_ids=tiny_hybrid.ids(3))
    found = logits(student, input_ids=tiny_hybrid.ids(3)).float()
    # Eight bits of mantissa through three blocks.
    assert ((found - exact).norm() / exact.norm()) < 3e-2


@each_mixer
def test_eager_attention_is_causal_in_a_hybrid_without_a_mask(mixer):
    student, ids = made(teacher(), mixer, [1]), tiny_hybrid.ids()
    other = ids.clone()
    other[:, 6:] = (other[:, 6:] + 1) % tiny.VOCAB
    for kind in ("sdpa", "eager"):
        student.set_attn_implementation(kind)
        before, after = logits(student, input_ids=ids), logits(student, input_ids=other)
        torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=0)
        assert (before[:, 6:] - after[:, 6:]).abs().amax((0, 2)).min() > 1e-3


@each_mixer
@each_teacher
def test_what_moves_is_bit_equal_and_shares_no_storage(kind, mixer):
    origin = teacher(kind)
    student = made(origin, mixer, [1])
    there, moved = student.state_dict(), 0
    for name, tensor in origin.state_dict().items():
        place = hybrid.renamed(name)
        if ".self_attn." in name and ".1." not in name:
            assert place not in there
            continue
        assert torch.equal(there[place], tensor), name
        moved += 1
    assert moved == len([name for name in origin.state_dict() if ".self_attn." not in name]) + len(
        [name for name in origin.state_dict() if ".1.self_attn." in name]
    )
    mine = {p.untyped_storage().data_ptr() for p in student.parameters()}
    assert mine.isdisjoint(p.untyped_storage().data_ptr() for p in origin.parameters())
    ties = len(mine) == len(list(student.parameters()))
    assert ties
    tied = student.lm_head.weight is student.model.embed_tokens.weight
    assert tied == bool(origin.config.tie_word_embeddings)


@each_mixer
def test_editing_a_student_leaves_its_teacher_as_it_was(mixer):
    origin = teacher("qwen2")
    before = {name: tensor.clone() for name, tensor in origin.state_dict().items()}
    student = made(origin, mixer, [0])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    student.generation_config.max_length = 3
    assert all(torch.equal(before[name], tensor) for name, tensor in origin.state_dict().items())
    assert origin.generation_config.max_length != 3


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", 1_405_159_936),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_656_994_688),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_841_204_736),
    ],
)
def test_the_published_llambas_have_as_many_parameters(name, wanted):
    config = load.load_config(name)
    with torch.device("meta"):
        origin = load.build_on_meta(config)
        student = made(origin, "discrete_mamba2", heads=32, state=64, start="identity")
    assert sum(parameter.numel() for parameter in student.parameters()) == wanted
    assert student.config.tie_word_embeddings == ("8B" not in name)


def test_rotary_positions_stay_float32_when_a_hybrid_of_ours_is_narrowed():
    student = made(teacher("llama, llama3 positions"), "discrete_mamba2", [1])
    before = student.model.rotary_emb.inv_freq.clone()
    for narrow in (student.to(torch.bfloat16), student.half(), student.double().bfloat16()):
        kept = narrow.model.rotary_emb
        assert kept.inv_freq.dtype == kept.original_inv_freq.dtype == torch.float32
        assert torch.equal(kept.inv_freq, before)
    assert student.lm_head.weight.dtype == torch.bfloat16
    assert student.to("meta").model.rotary_emb.inv_freq.is_meta


@each_mixer
@pytest.mark.parametrize(
    ("family", "changes", "told"),
    [
        ("qwen3", {"head_dim": 4}, "its family is qwen3; wanted one of llama, mistral, qwen2"),
        ("gemma", {"head_dim": 4}, "its family is gemma"),
        ("mistral", {"sliding_window": 4}, "its attention sees 4 tokens; wanted all before"),
        ("qwen2", {"sliding_window": 4, "use_sliding_window": True}, "its attention sees 4 tokens"),
        ("llama", {"hidden_act": "gelu"}, "activation gelu; wanted silu"),
        ("llama", {"head_dim": 8}, "its heads have 32 channels together; wanted the stream's 16"),
    ],
)
def test_a_teacher_that_no_hybrid_can_be_made_of_is_refused_by_its_config(
    family, changes, told, mixer
):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](**{**tiny_hybrid.SIZES, **changes})
    with pytest.raises(ModelError, match=told):
        hybrid.check(config, mixer)


def test_a_window_that_a_family_does_not_use_is_no_reason():
    from transformers import Qwen2Config

    config = Qwen2Config(**tiny_hybrid.SIZES, sliding_window=4, use_sliding_window=False)
    hybrid.check(config, "mamba2")


@each_mixer
def test_heads_that_do_not_divide_the_stream_are_refused(mixer):
    with pytest.raises(RecipeError, match="heads: 5 found; wanted a divisor of the stream's 16"):
        made(teacher(), mixer, heads=5)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("all", [0, 1, 2, 3]),
        ("none", []),
        ([1, 3], [1, 3]),
        (2, [1, 3]),
        (1, [2]),
        (4, [0, 1, 2, 3]),
        (0, []),
    ],
)
def test_the_blocks_that_keep_their_attention_are_those_asked_for(asked, wanted):
    assert kept_blocks(asked, 4) == wanted


@pytest.mark.parametrize("asked", [[3, 1], [1, 1], [4], [-1], 5])
def test_blocks_that_are_not_there_are_refused(asked):
    with pytest.raises(RecipeError, match=r"student\.hybrid\.keep_attention"):
        kept_blocks(asked, 4)


@each_mixer
def test_the_kinds_of_blocks_are_in_the_config_and_in_the_blocks(mixer):
    student = made(teacher(), mixer, [1])
    assert student.config.layers_block_type == [
        "linear_attention",
        "full_attention",
        "linear_attention",
    ]
    assert sorted(hybrid.mixers(student)) == [0, 2]
    assert ["self_attn" in layer._modules for layer in student.model.layers] == [False, True, False]
    assert isinstance(student, BambaForCausalLM)
