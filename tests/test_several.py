"""Several students of one recipe become runs of their own, as if each had been carried out alone."""

import shutil

import pytest
import tiny_folder
import torch

from limbeck import again, judging, run
from limbeck.errors import RecipeError
from limbeck.folder import Folder
from limbeck.teachers import live

STUDENTS = [{"pruned": {"layers": 1}}, {"pruned": {"layers": 2}}]


pytestmark = pytest.mark.usefixtures("handlers")


def asked(place, **changes):
    teacher = {"live": {"model": str(place / "teacher")}}
    return tiny_folder.short(place, "two", teacher=teacher, **changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def folders(place):
    """The runs of both students, and how often the teacher was asked."""
    tiny_folder.tree(place)  # makes teacher and text
    counted, plain = [], live.Live.signal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.Live, "signal", lambda *given: counted.append(given) or plain(*given))
        recipe = asked(place, student=None, students=STUDENTS)
        run.carry_out(recipe)
    return [tiny_folder.folder(one) for one in recipe.each], len(counted)


def test_each_student_is_a_whole_run(folders):
    for folder in folders[0]:
        assert (folder.path / "report.html").is_file()
        assert folder.recipe.is_file()
        assert {"teacher", "student"} <= set(judging.read(folder)["bits_per_byte"])


def test_the_teacher_speaks_once_for_both(folders, place):
    stage = asked(place).stages[0]
    micro_batches = 4 * stage.rows_per_step // stage.micro_rows
    assert folders[1] == micro_batches


def test_each_has_the_weights_that_it_gets_alone(folders, place):
    for folder, student in zip(folders[0], STUDENTS, strict=True):
        alone = tiny_folder.trained(asked(place, student=student, runs=str(place / "alone")))
        ours, wanted = tiny_folder.weights(folder, 4), tiny_folder.weights(alone, 4)
        assert ours.keys() == wanted.keys()
        assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
        shutil.rmtree(alone.path)


def test_the_same_command_says_that_all_is_done(folders, place, capsys):
    before = tiny_folder.contents(
        place / "runs" / "two" / "students", "report.html", "report.md", "telemetry.jsonl"
    )
    run.carry_out(asked(place, student=None, students=STUDENTS))
    after = tiny_folder.contents(
        place / "runs" / "two" / "students", "report.html", "report.md", "telemetry.jsonl"
    )
    assert before == after
    said = capsys.readouterr()
    assert (said.out + said.err).replace("\n", " ").count("is done (") == 2


def test_a_students_recipe_is_a_run_of_its_own(folders):
    for folder in folders[0]:
        base, opened = again._opened(folder.path)
        assert not base.recipe.students
        assert opened.path == Folder(folder.path).path


def test_student_and_students_do_not_stand_side_by_side(place, folders):
    with pytest.raises(RecipeError, match="not both"):
        asked(place, students=STUDENTS)
    with pytest.raises(RecipeError, match="of one student"):
        asked(place, student=None, students=STUDENTS, resume="runs/other/checkpoints/000002")
