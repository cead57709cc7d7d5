"""Loading a recipe: strict YAML, overrides, stages that extend one another, errors that name their place."""

import pytest
import tiny
import torch
import yaml

from limbeck import fitting, loading
from limbeck.errors import RecipeError

PLAIN = """
name: run
student: {pruned: {layers: 2}}
teacher: {live: {model: nowhere}}
stages:
  - name: first
    source: {text: {path: a, length: 8}}
    objective: [cross_entropy, {forward_kl: {temperature: 2.0}}]
    budget: 3 steps
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run.yaml").write_text(PLAIN)
    return tmp_path / "run.yaml"


def written(path, text):
    path.write_text(text)
    return path


def test_a_sound_recipe_loads_and_its_parts_exist(path):
    found = fitting.check(loading.load(path))
    assert found.stages[0].objective[1].options == {"temperature": 2.0}


def test_a_dumped_recipe_is_the_same_recipe(path):
    found = loading.load(path, ["stages.0.budget=1k tokens", "control=true"])
    assert loading.build(yaml.safe_load(loading.dump(found))) == found


@pytest.mark.parametrize(
    ("assignment", "look", "wanted"),
    [
        ("seed=7", lambda r: r.seed, 7),
        ("stages.0.budget=9 steps", lambda r: r.stages[0].budget.amount, 9),
        (
            "stages.0.optimizer.learning_rate=1e-3",
            lambda r: r.stages[0].optimizer.learning_rate,
            1e-3,
        ),
        ("student.pruned.layers=[0, 3]", lambda r: r.student.options["layers"], [0, 3]),
        (
            "stages.0.objective.0.cross_entropy.weight=0.5",
            lambda r: r.stages[0].objective[0].weight,
            0.5,
        ),
        ("teacher.live.dtype=float32", lambda r: r.teacher.options["dtype"], "float32"),
    ],
)
def test_an_override_sets_one_key(path, assignment, look, wanted):
    assert look(loading.load(path, [assignment])) == wanted


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "wanted key.path=value"),
        ("=3", "wanted key.path=value"),
        ("stages.7.budget=3 steps", "wanted a number below 1"),
        ("stages.first.budget=3 steps", "wanted a number below 1"),
        ("name.x=3", "has no key 'x'"),
        ("name=a=b", "name: "),
        ("name=../elsewhere", "name: "),
        ("stagse.0=3", "Did you mean 'stages'"),
        ("seed=[", "override 'seed'"),
        ("seed=-1", "seed: "),
    ],
)
def test_a_wrong_override_says_what_is_wrong(path, assignment, message):
    with pytest.raises(RecipeError, match=message):
        loading.load(path, [assignment])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x", "aliases are not read"),
        ("name: a\nname: b", "'name' stands twice"),
        ("a: !!python/object/apply:os.system [ls]", "not readable as YAML"),
        ("[1, 2]", "wanted a mapping"),
        ("a: [1", "not readable as YAML"),
        ("1: 2", "is no word"),
        ("", "wanted a mapping"),
        ("a: " + "[" * 5000, "not readable as YAML"),
        ("a: !!int abc", "line 1: 'abc' cannot be read as int"),
        ("b: 1\na: !!int ''", "line 2: '' cannot be read as int"),
        ("name: 2020-99-99", "line 1: '2020-99-99' cannot be read as timestamp"),
        ("a: !!timestamp abc", "cannot be read as timestamp"),
        ("control: !!bool maybe", "'maybe' cannot be read as bool"),
        ("a: !!float nope", "cannot be read as float"),
        ("seed: " + "9" * 5000, "line 1: '9{40}' cannot be read as int"),
        ("seed: 0x" + "f" * 5000, "line 1: '0xf{38}' cannot be read as int"),
        ("# " + "x" * 1_100_000, "a recipe has 1,000,000 at most"),
    ],
)
def test_strange_yaml_is_refused(path, text, message):
    with pytest.raises(RecipeError, match=message):
        loading.load(written(path, text))


def test_text_that_is_not_utf8_is_refused(path):
    path.write_bytes(b"name: \xff")
    with pytest.raises(RecipeError, match="not UTF-8"):
        loading.load(path)


def test_a_missing_recipe_suggests_a_near_one(path):
    with pytest.raises(RecipeError, match=r"Did you mean .*run\.yaml"):
        loading.load(path.with_name("rum.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("forward_kl", "foward_kl", r"stages\[0\]\.objective\[1\]: No 'foward_kl' in limbeck.objectives. Did you mean 'forward_kl'"),
        ("temperature", "temprature", r"stages\[0\]\.objective\[1\]: 'forward_kl' has no option 'temprature'. Did you mean 'temperature'"),
        ("temperature: 2.0", "temperature: warm", r"forward_kl\.temperature: .*Found 'warm'"),
        ("temperature: 2.0", "tail: both", r"forward_kl\.tail: .*bucket"),
        ("path: a, ", "", r"stages\[0\]\.source: 'text' needs path"),
        ("pruned", "pruend", r"student: No 'pruend'.*'pruned'"),
        ("live", "nobody.there", r"teacher: 'nobody.there' cannot be imported"),
        ("budget: 3 steps", "budget: soon", r"stages\[0\]\.budget: found 'soon'"),
        ("objective: [", "x: 3\n    objective: [", r"stages\[0\]: no key 'x' here"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_named_with_its_place(path, old, new, message):
    with pytest.raises(RecipeError, match=message):
        fitting.check(loading.load(written(path, PLAIN.replace(old, new))))


def test_an_objective_that_compares_needs_a_teacher(path):
    text = PLAIN.replace("teacher: {live: {model: nowhere}}\n", "")
    with pytest.raises(RecipeError, match=r"stages\[0\]\.objective: forward_kl needs a teacher"):
        fitting.check(loading.load(written(path, text)))


@pytest.mark.parametrize("objective", ["forward_kl", "jensen_shannon", "test_loading.warm"])
@pytest.mark.parametrize(
    ("temperature", "found"),
    [
        ("0", "0.0"),
        ("-2.5", "-2.5"),
        (".inf", "inf"),
        (".nan", "nan"),
        ("{from: 2, to: 0}", "0.0"),
        ("{from: -1, to: 2, shape: cosine}", "-1.0"),
    ],
)
def test_a_temperature_that_is_not_above_zero_is_refused_before_anything_is_loaded(
    path, objective, temperature, found
):
    text = PLAIN.replace(
        "forward_kl: {temperature: 2.0}", f"{objective}: {{temperature: {temperature}}}"
    )
    wanted = rf"stages\[0\]\.objective\[1\]: temperature {found} found; wanted a number above 0"
    with pytest.raises(RecipeError, match=wanted):
        fitting.check(loading.load(written(path, text)))
    falling = PLAIN.replace("temperature: 2.0", "temperature: {from: 2, to: 0.5}")
    assert fitting.check(loading.load(written(path, falling)))


@pytest.mark.parametrize(
    ("objective", "option", "given"),
    [
        ("skew_kl", "alpha", "0"),
        ("skew_kl", "alpha", "{from: 0.1, to: 1.0}"),
        ("skew_reverse_kl", "alpha", "1.5"),
        ("jensen_shannon", "beta", "2"),
        ("jensen_shannon", "beta", "{from: 0.5, to: 1.2}"),
        ("jensen_shannon", "beta", ".nan"),
        ("adaptive_kl", "head_mass", "0"),
    ],
)
def test_a_share_outside_its_limits_is_refused_before_anything_is_loaded(
    path, objective, option, given
):
    def of(value):
        asked = f"{objective}: {{{option}: {value}}}"
        return loading.load(written(path, PLAIN.replace("forward_kl: {temperature: 2.0}", asked)))

    with pytest.raises(RecipeError, match=rf"stages\[0\]\.objective\[1\]\.{objective}\.{option}: "):
        fitting.check(of(given))
    assert fitting.check(of("{from: 0.2, to: 0.9}"))
    assert fitting.check(of("0.5"))


def test_one_objective_under_two_names_is_refused(path):
    twice = "cross_entropy, forward_kl, {limbeck.objectives.forward_kl.forward_kl: {weight: 0}}"
    text = PLAIN.replace("cross_entropy, {forward_kl: {temperature: 2.0}}", twice)
    with pytest.raises(RecipeError, match=r"stages\[0\]\.objective: 'forward_kl' and 'limbeck"):
        fitting.check(loading.load(written(path, text)))
    dotted = "    alpha: 0.5\n    objective: [limbeck.objectives.cross_entropy.cross_entropy]\n"
    text = PLAIN.replace(
        "    objective: [cross_entropy, {forward_kl: {temperature: 2.0}}]\n", dotted
    )
    with pytest.raises(RecipeError, match=r"'cross_entropy' and 'limbeck.* are one objective"):
        fitting.check(loading.load(written(path, text)))


def test_a_measure_that_compares_with_a_teacher_needs_one_before_anything_is_trained(path):
    text = PLAIN.replace("teacher: {live: {model: nowhere}}\n", "").replace(
        ", {forward_kl: {temperature: 2.0}}", ""
    )
    judged = text + "evaluate: {source: {text: {path: b, length: 8}}}\n"
    with pytest.raises(RecipeError, match=r"evaluate\.measures\[1\]: 'agreement' needs a teacher"):
        fitting.check(loading.load(written(path, judged)))
    alone = judged.replace("length: 8}}}\n", "length: 8}}, measures: [bits_per_byte]}\n")
    assert fitting.check(loading.load(written(path, alone))).evaluate is not None


def test_a_control_does_not_begin_at_a_checkpoint_of_the_student(path):
    found = loading.load(path, ["resume=runs/other/stages/1-first/checkpoints/000002"])
    assert loading.control_of(found).resume == "auto"
    assert loading.control_of(loading.load(path, ["resume=none"])).resume == "none"


def test_a_value_in_the_wrong_place_is_not_repeated(path):
    for key in ("api_key", "student.api_key", "teacher.live.api_key", "stages.0.source.token"):
        with pytest.raises(RecipeError) as caught:
            fitting.check(loading.load(path, [f"{key}=sk-not-to-be-shown"]))
        assert "sk-not" not in str(caught.value)
        assert key.rpartition(".")[2] in str(caught.value)


def test_a_stage_extends_an_earlier_one(path):
    text = PLAIN + "  - {name: second, extends: first, budget: 5 steps}\n"
    found = loading.load(written(path, text))
    assert found.stages[1].budget.amount == 5
    assert found.stages[1].objective == found.stages[0].objective


def test_a_stage_that_extends_nothing_is_refused(path):
    text = PLAIN + "  - {name: second, extends: frist, budget: 5 steps}\n"
    with pytest.raises(
        RecipeError, match=r"stages\[1\]\.extends: no earlier stage 'frist'.*'first'"
    ):
        loading.load(written(path, text))


def test_the_control_learns_from_the_text_alone_and_differs_in_nothing_else(path):
    found = loading.load(path, ["control=true"])
    alone = loading.control_of(found)
    assert [term.name for term in alone.stages[0].terms] == ["cross_entropy"]
    assert not alone.control
    back = {"stages": found.stages, "control": True, "name": "run", "runs": "runs"}
    same = alone.model_copy(update=back)
    assert same == found
    left, right = found.stages[0], alone.stages[0]
    assert left.model_copy(update={"objective": right.objective}) == right


def scaled(student, teacher, rows, *, factor: float = 1.0):
    """A user's own objective."""
    return student.sum(-1) * factor


def warm(student, teacher, rows, *, temperature: float = 1.0):
    """A user's own objective with a temperature."""
    return student.sum(-1) / temperature


def test_a_users_own_dotted_name_is_a_part(path):
    text = PLAIN.replace("forward_kl: {temperature: 2.0}", "test_loading.scaled: {factor: 3}")
    found = fitting.check(loading.load(written(path, text)))
    function, options = loading.checked(found.stages[0].objective[1], "objectives", "here")
    value = function(torch.ones(2, 3), None, tiny.rows(2), **options)
    assert value.tolist() == [9.0, 9.0]


@pytest.mark.parametrize("kind", ["sample", "rs", "kl-vector"])
def test_an_objective_that_a_cache_cannot_serve_is_refused_before_anything_is_loaded(kind):
    cached = {"cached": {"model": "no/such", "path": "cache", "kind": kind}}
    stage = {"name": "a", "source": {"text": {"path": "x", "length": 8}}, "budget": "2 steps"}
    plain = {"name": "r", "teacher": cached, "student": {"pruned": {"layers": 2}}}

    def asked(objective):
        return fitting.check(loading.build(plain | {"stages": [stage | {"objective": objective}]}))

    asked(["forward_kl", "cross_entropy"])
    with pytest.raises(RecipeError, match=r"stages\[0\].objective\[1\]: 'reverse_kl' cannot learn"):
        asked([{"cross_entropy": {"weight": 0.5}}, "reverse_kl"])
    with pytest.raises(RecipeError, match=r"temperature 2\.0 found"):
        asked([{"forward_kl": {"temperature": 2.0}}])
