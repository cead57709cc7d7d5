"""A recipe is strict, frozen, and the same after it was written and read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from limbeck.measurement import Benchmarks
from limbeck.recipe import Budget, Optimizer, Part, Ramp, Recipe, Stage, Term, value_at

STAGE = {
    "name": "only",
    "source": {"text": {"path": "a", "length": 8}},
    "objective": ["forward_kl"],
    "budget": "3 steps",
}
PLAIN = {"name": "run", "student": {"pruned": {"layers": 2}}, "teacher": "live", "stages": [STAGE]}


def stage(**changes):
    return Stage.model_validate(STAGE | changes)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("200k tokens", 200_000, "tokens"),
        ("1.5B tokens", 1_500_000_000, "tokens"),
        ("300 steps", 300, "steps"),
        ("80M tokens", 80_000_000, "tokens"),
        ("12_000 tokens", 12_000, "tokens"),
    ],
)
def test_a_budget_is_read_as_it_is_said(text, amount, unit):
    found = Budget.model_validate(text)
    assert (found.amount, found.unit) == (amount, unit)


@pytest.mark.parametrize(
    "text", ["", "3", "3 epochs", "-3 steps", "0 steps", "1.5 steps", "k tokens"]
)
def test_a_budget_that_says_nothing_is_refused(text):
    with pytest.raises(ValidationError):
        Budget.model_validate(text)


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_a_budget_of_tokens_ends_with_the_step_that_reaches_it(tokens, steps):
    assert Budget(amount=tokens, unit="tokens").steps(100) == steps


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_ramp_begins_and_ends_where_it_says(shape):
    ramp = Ramp.model_validate({"from": 2.0, "to": 4.0, "shape": shape})
    assert ramp.at(0) == pytest.approx(2)
    assert ramp.at(0.5) == pytest.approx(3)
    assert ramp.at(1) == pytest.approx(4)
    assert value_at(ramp, 1) == pytest.approx(4)
    assert value_at(7.0, 1) == 7.0


@given(share=st.floats(0, 1), start=st.floats(-9, 9), end=st.floats(-9, 9))
def test_a_ramp_stays_between_its_ends(share, start, end):
    for shape in ("linear", "cosine"):
        found = Ramp.model_validate({"from": start, "to": end, "shape": shape}).at(share)
        assert min(start, end) - 1e-9 <= found <= max(start, end) + 1e-9


def test_an_unknown_key_is_refused_and_the_nearest_named():
    with pytest.raises(ValidationError, match=r"no key 'budgett' here. Did you mean 'budget'\?"):
        stage(budgett="3 steps")
    with pytest.raises(ValidationError, match=r"Did you mean 'learning_rate'\?"):
        Optimizer.model_validate({"learningrate": 1.0})


def test_a_seed_that_no_generator_takes_is_refused():
    assert Recipe.model_validate(PLAIN | {"seed": 2**63 - 1}).seed == 2**63 - 1
    for seed in (-1, 2**63):
        with pytest.raises(ValidationError, match="seed"):
            Recipe.model_validate(PLAIN | {"seed": seed})
    assert Benchmarks(tasks=("piqa",), seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(ValidationError, match="less than 4294967296"):
        Benchmarks(tasks=("piqa",), seed=2**32)


def test_a_recipe_cannot_be_changed():
    found = Recipe.model_validate(PLAIN)
    with pytest.raises(ValidationError, match="frozen"):
        found.seed = 3


def test_alpha_weighs_cross_entropy_and_leaves_the_rest_to_the_others():
    terms = stage(alpha=0.3).terms
    assert [(term.name, term.weight) for term in terms] == [
        ("cross_entropy", 0.3),
        ("forward_kl", 0.7),
    ]


@pytest.mark.parametrize("objective", [["cross_entropy"], [{"forward_kl": {"weight": 2.0}}]])
def test_alpha_beside_weights_is_refused(objective):
    with pytest.raises(ValidationError, match="give alpha, or cross_entropy and weights; not both"):
        stage(alpha=0.3, objective=objective)


def test_an_objective_that_stands_twice_is_refused():
    with pytest.raises(ValidationError, match="stands twice"):
        stage(objective=["forward_kl", {"forward_kl": {"temperature": 2.0}}])


def test_rows_that_micro_batches_do_not_divide_are_refused():
    with pytest.raises(ValidationError, match="rows_per_step 8 is no multiple of micro_rows 3"):
        stage(micro_rows=3)


@pytest.mark.parametrize("part", [["a"], 3, {"a": {}, "b": {}}, {"a": 3}, None])
def test_a_part_is_a_name_or_a_name_with_options(part):
    with pytest.raises(ValidationError, match="wanted a name"):
        Part.model_validate(part)


def test_a_part_without_options_may_be_followed_by_nothing():
    assert Part.model_validate({"live": None}) == Part.model_validate("live")


def test_a_term_takes_its_weight_out_of_its_options():
    ramp = {"from": 1, "to": 2}
    term = Term.model_validate(
        {"forward_kl": {"weight": ramp, "temperature": ramp, "tail": "none"}}
    )
    assert term.weight == term.options["temperature"] == Ramp.model_validate(ramp)
    assert term.options["tail"] == "none"
    assert "weight" not in term.options


def test_written_and_read_again_it_is_the_same_recipe():
    whole = PLAIN | {
        "control": True,
        "teacher": {"cached": {"path": "c", "k": 3}},
        "evaluate": {"source": {"text": {"path": "b", "length": 8}}},
        "stages": [
            STAGE
            | {
                "objective": [
                    "cross_entropy",
                    {"forward_kl": {"weight": {"from": 1, "to": 0, "shape": "cosine"}}},
                ]
            },
            STAGE | {"name": "second", "alpha": 0.5, "optimizer": {"schedule": "wsd"}},
        ],
    }
    found = Recipe.model_validate(whole)
    assert Recipe.model_validate(found.model_dump(mode="json", by_alias=True)) == found


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ValidationError, match="stands twice"):
        Recipe.model_validate(PLAIN | {"stages": [STAGE, STAGE]})


def test_keeping_the_best_needs_something_that_judges():
    with pytest.raises(ValidationError, match=r"keep_best needs evaluate\.source"):
        Recipe.model_validate(PLAIN | {"checkpoints": {"keep_best": 1}})


TWICE = [
    "cross_entropy",
    {"feature_mse as mlp-gate": {"weight": 0.2, "at": "layers.*.mlp.gate_proj"}},
    {"feature_mse as mlp-up": {"weight": 0.2, "at": "layers.*.mlp.up_proj"}},
]


def test_one_objective_may_stand_twice_under_labels_and_comes_back_as_written():
    stage = Stage.model_validate(STAGE | {"objective": TWICE})
    assert [term.title for term in stage.terms] == ["cross_entropy", "mlp-gate", "mlp-up"]
    assert [term.name for term in stage.terms] == ["cross_entropy", "feature_mse", "feature_mse"]
    plain = stage.model_dump(mode="json", by_alias=True)
    assert plain["objective"] == TWICE
    assert Stage.model_validate(plain) == stage


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (["forward_kl", "forward_kl"], "stands twice.*labels"),
        (["forward_kl as a", "reverse_kl as a"], "stands twice"),
        (["forward_kl as a.b"], r"label 'a\.b' of forward_kl; wanted letters"),
        (["forward_kl as "], "label ''"),
        (["forward_kl as one two"], "label 'one two'"),
    ],
)
def test_a_label_is_one_word_of_one_term(objective, told):
    with pytest.raises(ValidationError, match=told):
        Stage.model_validate(STAGE | {"objective": objective})


def test_a_ban_leaves_out_exactly_what_it_names():
    stage = Stage.model_validate(STAGE | {"objective": TWICE, "ban": ["mlp-gate"]})
    assert [term.title for term in stage.terms] == ["cross_entropy", "mlp-up"]
    assert [term.title for term in stage.objective] == ["cross_entropy", "mlp-gate", "mlp-up"]
    again = Stage.model_validate(stage.model_dump(mode="json", by_alias=True))
    assert again == stage


def test_a_ban_of_what_is_not_there_or_of_all_is_refused():
    with pytest.raises(ValidationError, match=r"no term 'mlp-gaet'\. Did you mean 'mlp-gate'"):
        Stage.model_validate(STAGE | {"objective": TWICE, "ban": ["mlp-gaet"]})
    with pytest.raises(ValidationError, match="leaves no term"):
        Stage.model_validate(STAGE | {"objective": ["forward_kl"], "ban": ["forward_kl"]})


def test_alpha_goes_round_a_banned_term():
    asked = {"objective": ["forward_kl", "reverse_kl"], "ban": ["reverse_kl"], "alpha": 0.25}
    terms = Stage.model_validate(STAGE | asked).terms
    assert [(term.title, term.weight) for term in terms] == [
        ("cross_entropy", 0.25),
        ("forward_kl", 0.75),
    ]
