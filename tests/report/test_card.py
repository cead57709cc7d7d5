"""The model card: metadata that the Hub reads, figures that the run holds, licences, and the recipe whole."""

from dataclasses import replace

import pytest
import tiny_report
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from limbeck import files
from limbeck.licences import Origin
from limbeck.measurement import Card
from limbeck.report import card, collect

TEACHER = Origin("teacher", "someone/teacher", "apache-2.0")
MADE = card.Made(
    name="tiny",
    model="student",
    method="pruned student, forward_kl",
    tags=("distillation", "limbeck", "pruned"),
    parameters=12_345,
    tokens=6_000,
    teacher=TEACHER,
    teacher_parameters=24_690,
    fingerprint="f" * 64,
    began=replace(TEACHER, role="weights it began with"),
    texts=(Origin("text", "someone/text", "cc-by-sa-4.0"),),
    recipe="name: tiny\nprompt: |\n  ```` four\n",
    own=Card(),
)


@pytest.fixture
def run(tmp_path):
    place = tiny_report.folder(tmp_path)
    asked = {
        "measure": "piqa", "few_shot": 0, "questions": 20, "command": "limbeck evaluate runs/tiny --tasks piqa",
        "higher_is_better": {"acc": True}, "student_against_control": {}, "gap_recovered": {},
        "models": {name: {"acc.none": value, "acc.none_stderr": 0.01} for name, value in (("teacher", 0.7), ("student", 0.61))},
    }  # fmt: skip
    files.write_json(place / "evaluation/benchmarks/piqa.json", asked)
    return collect.facts(place)


def test_metadata_is_what_the_hub_reads(run):
    found = ModelCard(card.written(MADE, run)).data
    assert (found.base_model, found.license) == ("someone/teacher", "apache-2.0")
    assert found.to_dict()["base_model_relation"] == "finetune"
    assert (found.library_name, found.pipeline_tag) == ("transformers", "text-generation")
    assert (found.datasets, found.tags) == (["someone/text"], ["distillation", "limbeck", "pruned"])
    results = {(one.dataset_type, one.metric_type): one.metric_value for one in found.eval_results}
    assert results == {("piqa", "acc.none"): 0.61, ("held-out-text", "bits_per_byte"): 1.5}


def test_the_page_tells_what_it_is_how_good_and_how_to_make_it_again(run):
    text = card.written(MADE, run)
    for told in (
        "# tiny\n", "A student of `someone/teacher`", "12,345, 50.0% of the teacher's 24,690", "6,000", "f" * 64,
        "better by 0.5000 bits per byte", "| student | 200 | 1.5000 |", "| control | 200 | 2.0000 |", "limbeck evaluate runs/tiny",
        "Gap recovered, bits per byte: 50.0%", "0.6100 ± 0.0100", "limbeck evaluate runs/tiny --tasks piqa",
        "This model: **apache-2.0**, as the model whose weights it began with.", "`someone/text` | cc-by-sa-4.0 |",
        "Training of the student: ", "    limbeck train recipe.yaml", "seed 3", "`````yaml\nname: tiny",
    ):  # fmt: skip
        assert told in text, told
    assert text.count("`someone/teacher` | apache-2.0") == 1  # teacher and start are one


def test_what_the_recipe_says_of_itself_comes_first(run):
    own = Card(license="mit", language=("en",), datasets=("me/more",), notes="For trials.")
    text = card.written(replace(MADE, own=own), run)
    found = ModelCard(text).data
    assert (found.license, found.language) == ("mit", ["en"])
    assert found.datasets == ["me/more", "someone/text"]
    assert "This model: **mit**.\n" in text
    assert "\nFor trials.\n" in text


def test_a_licence_that_the_hub_may_not_know_keeps_its_name(run):
    began = replace(TEACHER, licence="my-own-1.0")
    found = ModelCard(card.written(replace(MADE, began=began), run)).data
    assert (found.license, found.license_name) == ("other", "my-own-1.0")


@pytest.mark.parametrize("known", ["mpl-2.0", "llama4", "psf-2.0"])
def test_metadata_names_licences_as_the_hub_does(run, known):
    found = ModelCard(card.written(replace(MADE, own=Card(license=known)), run)).data
    on_the_list = known != "psf-2.0"
    assert (found.license, found.license_name) == (
        (known, None) if on_the_list else ("other", known)
    )


def test_names_of_others_are_no_markup(run):
    odd = "models/a|b `c` <img src=x>\n# Injected"
    teacher = Origin("teacher", odd, "mit")
    text = card.written(replace(MADE, teacher=teacher, began=teacher, fingerprint=None), run)
    page = MarkdownIt("commonmark").enable("table").render(text.partition("\n---\n")[2])
    assert page.count("<h1>") == 1
    assert "<img" not in page
    rows = [row for row in page.split("<tr>") if row.startswith("\n<td>teacher</td>\n<td><code>")]
    assert [row.count("<td>") for row in rows] == [4]


@pytest.mark.parametrize(
    "wrong",
    [{"language": ["English"]}, {"datasets": ["no name!!"]}, {"license": "MIT License"}, {"notes": "```\nopen"}],
)  # fmt: skip
def test_what_the_hub_would_refuse_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match="1 validation error"):
        Card.model_validate(wrong)


def test_a_student_from_nothing_and_a_folder_here_are_nobodys_finetune(run, tmp_path):
    local = Origin("teacher", str(tmp_path), None)
    texts = (Origin("text", str(tmp_path), None, writer="some-api-model", spent=1.0),)
    for began in (None, local):
        text = card.written(replace(MADE, teacher=local, began=began, texts=texts), run)
        told = yaml.safe_load(text.split("---")[1])
        assert not {"base_model", "base_model_relation", "datasets", "license"} & set(told)
        assert "This model: not said." in text
        assert "was written by `some-api-model`" in text


def test_a_control_says_that_it_is_one_and_has_its_own_figures(run):
    made = replace(MADE, name="tiny, control", model="control", tags=("limbeck", "control"))
    text = card.written(made, run)
    assert "The control of a distillation" in text
    assert [one.metric_value for one in ModelCard(text).data.eval_results] == [2.0]


def test_a_model_of_ours_says_what_to_import(run):
    assert "import limbeck" not in card.written(MADE, run)
    assert "import limbeck" in card.written(replace(MADE, code="limbeck"), run)


def test_a_run_that_was_not_measured_yet_has_a_card_without_tables(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    text = card.written(MADE, collect.facts(tmp_path))
    assert "has not been evaluated yet" in text
    assert "## Teacher" not in text
    assert "## Benchmarks" not in text
    assert ModelCard(text).data.eval_results is None
