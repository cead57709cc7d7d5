"""A run is watched on held-out rows while it trains: the same run, its best by any figure, and ended early where asked."""

import shutil
from dataclasses import replace

import pytest
import tiny_folder
import torch

from limbeck import assembly, fitting, loading, prints, run, showing, watching
from limbeck.arm import train
from limbeck.cache.read import CacheReader
from limbeck.errors import Interrupted, RecipeError
from limbeck.evaluation._judge import judge
from limbeck.evaluation.agreement import agreement
from limbeck.evaluation.bits_per_byte import bits_per_byte
from limbeck.report import collect
from limbeck.standing import best, trained_steps
from limbeck.trackers import _names
from limbeck.training import checkpoint, meter, parallel

WATCH = {"every": "2 steps", "rows": 6}
FAST = {"learning_rate": 0.3, "schedule": "constant", "max_grad_norm": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("watched")
    tiny_folder.tree(found)
    return found


def live(place):
    return {"live": {"model": str(place / "teacher")}}


def asked(place, name, **changes):
    changes = {"teacher": live(place), "watch": WATCH} | changes
    return tiny_folder.short(place, name, **changes)


def seen(folder):
    """What each look saw, by step, without the seconds that it took."""
    found = {line["step"]: line["held_out"] for line in meter.read(folder.log) if "held_out" in line}  # fmt: skip
    return {step: {k: v for k, v in one.items() if k != "seconds"} for step, one in found.items()}


def value(look, figure):
    tables = [look, *look["measures"].values()]
    return next(table[figure] for table in tables if figure in table)


@pytest.fixture(scope="module")
def watched(place):
    return tiny_folder.trained(asked(place, "watched", control=True))


def test_weights_are_the_same_bits_with_looks_and_without(place, watched):
    plain = tiny_folder.trained(asked(place, "plain", control=True, watch=None))
    for mine, other in ((watched, plain), (watched.control, plain.control)):
        ours, wanted = tiny_folder.weights(mine, 4), tiny_folder.weights(other, 4)
        assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
        lines = [line for line in meter.read(mine.log) if "held_out" not in line]
        losses = [line["loss"] for line in meter.read(other.log)]
        assert [line["loss"] for line in lines] == losses
        assert list(seen(mine)) == [2, 4]


def test_with_dropout_weights_are_the_same_bits_too(place):
    student = {"adapters": {"rank": 2, "targets": ["q_proj", "v_proj"], "dropout": 0.5}}
    one = tiny_folder.trained(asked(place, "dropped", student=student))
    other = tiny_folder.trained(asked(place, "dropped-plain", student=student, watch=None))
    ours, wanted = tiny_folder.weights(one, 4), tiny_folder.weights(other, 4)
    assert wanted
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_the_last_look_says_what_the_evaluation_says_of_the_same_model(place, watched):
    base = assembly.ground(asked(place, "watched", control=True))
    source = watching.Behind(assembly.held_out(base), range(16, 22))
    student_arm, control_arm = run.plain_arms(base, watched)
    models = {
        "teacher": assembly.load_teacher(base),
        "student": run.trained_student(student_arm)[0],
        "control": run.trained_student(control_arm)[0],
    }
    found = judge(
        models, source, [(bits_per_byte, {}), (agreement, {})], rows=6, vocab=base.vocab,
        device=base.device,
    ).figures  # fmt: skip
    for arm, folder in (("student", watched), ("control", watched.control)):
        for measure, figures in seen(folder)[4]["measures"].items():
            assert figures == pytest.approx(found[measure][arm], rel=1e-4), (arm, measure)


def test_trackers_are_told_what_was_seen_under_their_names(watched):
    walk = _names.Walk()
    told = [walk.named(line) for line in meter.read(watched.log)]
    look = seen(watched)[4]
    assert told[-1]["eval/step"] == 4
    assert told[-1]["eval/loss"] == told[-1]["eval/kl_loss"] == look["loss"]
    for figure in ("cross_entropy", "bits_per_byte", "kl_to_teacher", "top_1_agreement"):
        assert told[-1][f"eval/{figure}"] == value(look, figure)


def test_a_run_that_was_stopped_sees_and_keeps_what_an_undisturbed_one_does(place):
    keep = {"every": 2, "keep_last": 1, "keep_best": 1}
    stage = tiny_folder.stage(place, budget="12 steps", optimizer=FAST)
    watch = WATCH | {"best": "kl_to_teacher", "patience": 2, "every": "3 steps"}
    changes = {"stages": [stage], "checkpoints": keep, "watch": watch}
    whole = tiny_folder.trained(asked(place, "whole", **changes))
    again = asked(place, "again", **changes)
    for steps in (1, 2):  # at step 1, before any look, and at 3, with one since the best
        calls = iter(range(100))
        with pytest.raises(Interrupted):
            tiny_folder.trained(again, stop=lambda calls=calls, n=steps: next(calls) == n)
    folder = tiny_folder.trained(again)
    assert seen(folder) == seen(whole)
    kept = [
        [(item.step, item.score, item.ended) for item in checkpoint.found(one.checkpoints(0, "distil"), by="kl_to_teacher")]
        for one in (folder, whole)
    ]  # fmt: skip
    assert kept[0] == kept[1]
    last = kept[0][0][0]
    assert last < 12, "the stage must end early, or this shows less"
    states = [checkpoint.state(tiny_folder.final(one, last)) for one in (folder, whole)]
    assert states[0] == states[1]


def test_what_a_kill_left_beyond_the_last_checkpoint_is_seen_again(place):
    stage = tiny_folder.stage(place, budget="12 steps", optimizer=FAST)
    watch = WATCH | {"best": "kl_to_teacher", "patience": 3, "every": "1 steps"}
    changes = {"stages": [stage], "checkpoints": {"every": 2, "keep_last": 9}, "watch": watch}
    recipe = asked(place, "killed", **changes)
    folder = tiny_folder.trained(recipe)
    whole, kept = seen(folder), checkpoint.found(folder.checkpoints(0, "distil"))
    wanted = checkpoint.state(kept[0].folder)
    assert 2 < kept[0].step < 12
    for item in kept[:-1]:  # as if it was killed before step 4 was safe
        shutil.rmtree(item.folder)
    with folder.log.open("ab") as stream:
        stream.write(b'{"stage": "distil", "step": 9, "held_')
    assert seen(tiny_folder.trained(recipe)) == whole
    again = checkpoint.found(folder.checkpoints(0, "distil"))
    assert [(item.step, item.ended) for item in again] == [(item.step, item.ended) for item in kept]
    assert checkpoint.state(again[0].folder) == wanted


def test_each_of_several_students_is_watched_and_ends_by_itself(place):
    students = [{"pruned": {"layers": 1}}, {"pruned": {"layers": 3}}]
    stage = tiny_folder.stage(place, budget="12 steps", optimizer=FAST | {"learning_rate": 0.1})
    watch = WATCH | {"best": "cross_entropy", "patience": 1, "every": "1 steps"}
    changes = {"stages": [stage], "checkpoints": {"every": 50}, "watch": watch}
    recipe = asked(place, "both", student=None, students=students, **changes)
    base, arms = assembly.ground(recipe), []
    for one in recipe.each:
        folder = tiny_folder.folder(one)
        folder.path.mkdir(parents=True)
        world = parallel.start(base.device)
        arms += run.arms(assembly.beside(base, one), world, folder, lambda: False)
    train([replace(arm, teacher=arms[0].teacher, beside=arms[0].beside) for arm in arms])
    ends = []
    for number, (arm, student) in enumerate(zip(arms, students, strict=True)):
        alone = tiny_folder.trained(asked(place, f"alone-{number}", student=student, **changes))
        assert seen(arm.folder) == seen(alone)
        ends.append(trained_steps(arm, 0))
        ours, wanted = (tiny_folder.weights(each, ends[-1]) for each in (arm.folder, alone))
        assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
    assert ends[0] != ends[1], "both end at one step, so this shows less"


def test_a_stage_ends_early_where_its_figures_say_and_the_next_begins_there(place, capsys):
    first = tiny_folder.stage(place, name="one", budget="20 steps", optimizer=FAST)
    second = tiny_folder.stage(place, name="two", budget="2 steps")
    watch = WATCH | {"every": "1 steps", "best": "kl_to_teacher", "patience": 3}
    changes = {"stages": [first, second], "checkpoints": {"every": 50}, "watch": watch}
    recipe = asked(place, "early", **changes)
    folder = tiny_folder.trained(recipe)
    looks = [line for line in meter.read(folder.log) if "held_out" in line and line["stage"] == "one"]  # fmt: skip
    figures = [value(line["held_out"], "kl_to_teacher") for line in looks]
    least, wanted = float("inf"), None
    for number, figure in enumerate(figures):
        if figure < least:
            least, wanted = figure, number
    assert len(figures) == wanted + 1 + 3 < 20
    assert looks[-1]["ended_early"]["of"] == 20
    assert f"ends early at step {len(figures)} of 20" in capsys.readouterr().err
    arm = run.plain_arms(assembly.ground(recipe), folder)[0]
    assert [trained_steps(arm, index) for index in (0, 1)] == [len(figures), 2]
    assert tiny_folder.final(folder, 2, "2-two").is_dir()
    (folder.path / "recipe.yaml").write_text(loading.dump(recipe))
    (told,) = collect.ends(collect.facts(folder.path))
    assert told.startswith(f"Stage one of the student ended early, at step {len(figures)} of 20")
    tiny_folder.trained(recipe)
    said = capsys.readouterr().err
    assert said.count("is done (") == 2, said


@pytest.mark.parametrize(
    ("figure", "better"), [("bits_per_byte", min), ("kl_to_teacher", min), ("top_k_overlap", max), ("loss", min)]
)  # fmt: skip
def test_the_best_checkpoint_is_that_of_the_figure(place, figure, better):
    keep = {"every": 1, "keep_last": 1, "keep_best": 1}
    stage = tiny_folder.stage(place, budget="6 steps", optimizer=FAST)
    watch = WATCH | {"every": "50 steps", "best": figure}
    changes = {"stages": [stage], "checkpoints": keep, "watch": watch}
    recipe = asked(place, f"best-{figure.replace('_', '-')}", **changes)
    folder = tiny_folder.trained(recipe)
    figures = {step: value(look, figure) for step, look in seen(folder).items()}
    assert list(figures) == [1, 2, 3, 4, 5, 6]
    wanted = better(figures, key=lambda step: (figures[step], 0))
    arm = run.plain_arms(assembly.ground(recipe), folder)[0]
    chosen = int(best(arm, folder.checkpoints(0, "distil")).name)
    assert figures[chosen] == figures[wanted]
    kept = {item.step for item in checkpoint.found(folder.checkpoints(0, "distil"))}
    assert kept == {chosen, 6}


def test_a_cached_teacher_is_recorded_for_the_rows_that_are_looked_at(place):
    teacher = {"cached": {"model": str(place / "teacher"), "path": str(place / "looked-at")}}
    folder = tiny_folder.trained(asked(place, "cached", teacher=teacher))
    assert len(CacheReader(place / "looked-at")) == 16 + 6
    look = seen(folder)[4]
    assert set(look["measures"]["agreement"]) == {"kl_to_teacher", "tokens"}
    # By its own draws, of a cache of this kind.
    assert look["measures"]["agreement"]["kl_to_teacher"] == pytest.approx(look["loss"], rel=1e-5)


def test_what_a_cache_of_other_lengths_cannot_tell_is_left_out_and_said(place, capsys):
    teacher = {"cached": {"model": str(place / "teacher"), "path": str(place / "shorter")}}
    held_out = {"source": tiny_folder.source(place, split="held_out", length=8), "rows": 4}
    changes = {"teacher": teacher, "evaluate": held_out}
    folder = tiny_folder.trained(asked(place, "shorter", **changes))
    assert "looks leave out what needs the teacher" in capsys.readouterr().err
    assert list(seen(folder)[4]["measures"]) == ["bits_per_byte"]
    recipe = asked(place, "shorter-best", **changes, watch=WATCH | {"best": "kl_to_teacher"})
    with pytest.raises(RecipeError, match="held-out rows have 8"):
        watching.check_text(assembly.ground(recipe))


@pytest.mark.parametrize(
    ("watch", "told"),
    [
        ({"best": "bits_per_bite"}, "no figure 'bits_per_bite'. Did you mean 'bits_per_byte'"),
        ({"best": "kl_to_teacher", "measures": ["bits_per_byte"]}, "not watched: add it to"),
        ({"measures": ["agrement"]}, r"watch.measures\[0\].*Did you mean 'agreement'"),
        ({"measures": [{"agreement": {"n": 3}}]}, "has no option 'n'"),
        ({"measures": ["agreement", "agreement"]}, "stands twice"),
        ({"measures": ["test_watching.value"]}, "cannot be watched"),
        ({"every": "3 epochs"}, "wanted such as '200k tokens'"),
        ({"patients": 3}, "no key 'patients'.*Did you mean 'patience'"),
    ],
)
def test_what_cannot_be_watched_is_refused_by_its_name(place, watch, told):
    with pytest.raises(RecipeError, match=told):
        asked(place, "wrong", watch=WATCH | watch)


def test_what_a_teacher_does_not_tell_is_refused_before_anything_is_loaded(place):
    sample = {"cached": {"model": str(place / "teacher"), "path": "nowhere"}}
    with pytest.raises(RecipeError, match="does not tell"):
        asked(place, "wrong", teacher=sample, watch=WATCH | {"best": "top_1_agreement"})
    with pytest.raises(RecipeError, match="of this teacher 4 ids are kept"):
        asked(place, "wrong", teacher=tiny_folder.cached(place, k=4))
    with pytest.raises(RecipeError, match=r"watch\.measures\[1\]: 'agreement' needs a teacher"):
        watching.check(asked(place, "wrong").model_copy(update={"teacher": None}))
    with pytest.raises(RecipeError, match=r"watch needs evaluate\.source"):
        asked(place, "wrong", evaluate=None)


def test_too_few_held_out_rows_are_told_before_a_model_is_loaded(place):
    recipe = asked(place, "few", watch=WATCH | {"rows": 5000}, teacher={"live": {"model": str(place / "teacher"), "dtype": "float32"}})  # fmt: skip
    with pytest.raises(RecipeError, match=r"watch\.rows: 5000 rows behind the 16 of evaluate\.rows"):  # fmt: skip
        watching.check_text(assembly.ground(recipe))


def test_looks_make_no_other_run_but_an_early_end_does(place):
    plain, looking, ending = (
        prints.identity(loading.dump(asked(place, "same", watch=watch)))
        for watch in (None, WATCH, WATCH | {"patience": 2})
    )
    assert plain == looking != ending


def test_the_plan_tells_when_it_looks(place):
    recipe = asked(place, "planned", watch=WATCH | {"patience": 2})
    told = showing._looks(recipe.watch, recipe)
    assert told.startswith("every 2 steps, at 6 held-out rows behind the 16 of evaluate")
    assert told.endswith("a stage ends after 2 without a better one")
    assert fitting.check(loading.build(loading.parse_yaml(loading.dump(recipe), "x"))) == recipe
