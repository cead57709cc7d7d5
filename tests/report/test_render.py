"""The page needs nothing else, shows strange text as text, and the plain report says the same."""

import json
import re

import tiny_report

from limbeck import files
from limbeck.report import collect, render

STRANGE = "</script><b>bold</b>&amp;"


def page(tmp_path, **changes):
    return render.html(collect.facts(tiny_report.folder(tmp_path, **changes)))


def test_nothing_is_fetched(tmp_path):
    text = page(tmp_path)
    assert not re.findall(r"""<(?:script|img|link|iframe)[^>]*(?:src|href)=["'](?!data:)""", text)
    assert "@import" not in text.split("<body>")[0]


def test_strange_text_is_shown_as_text(tmp_path):
    text = page(tmp_path, prompt=STRANGE, recipe=f"name: {STRANGE}\n")
    assert "<b>bold</b>" not in text
    assert text.count("&lt;/script&gt;&lt;b&gt;bold") >= 4


def test_a_name_within_a_script_neither_ends_it_nor_keeps_it_from_ending(tmp_path):
    name = "<!--<script>"
    run = tiny_report.folder(tmp_path)
    alike = files.read_json(run / "evaluation/layers.json")
    alike["students"][0]["name"] = f"{name}</script>"
    files.write_json(run / "evaluation/layers.json", alike)
    text = render.html(collect.facts(run))
    drawn = text[text.index("const figures = ") :].partition("\n")[0]
    assert "<" not in drawn
    found = json.loads(drawn.removeprefix("const figures = ").removesuffix(";"))
    assert f"{name}</script>" in [line.get("name") for one in found for line in one["data"]]


def test_both_reports_hold_verdict_figures_and_samples(tmp_path):
    run = tiny_report.folder(tmp_path)
    written = render.write(run)
    for text in (written.read_text(), (run / "report.md").read_text()):
        assert "better by 0.5000 bits per byte" in text
        assert "1.5000" in text
        assert "Once upon a time" in text
        assert "50.0%" in text


def test_what_is_empty_or_unknown_is_called_none(tmp_path):
    run = tiny_report.folder(tmp_path)
    files.write_json(
        run / "provenance.json", {"commit": None, "hardware": {"gpus": [], "cores": 2}}
    )
    text = re.sub(r"<[^>]+>", " ", render.html(collect.facts(run)).split("<h2>Provenance</h2>")[1])
    for told in ("commit none", "hardware.gpus none", "hardware.cores 2"):
        assert told in " ".join(text.split())


def test_charts_are_named_for_those_who_do_not_see_them(tmp_path):
    text = page(tmp_path)
    assert text.count('role="img" aria-label="') == text.count('class="chart"') >= 6
    assert '<html lang="en">' in text


def test_a_run_that_was_only_begun_has_a_report(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    assert "has not been evaluated yet" in render.write(tmp_path).read_text()


def test_tokens_are_shaded_by_how_far_apart_the_models_are(tmp_path):
    page = render.html(collect.facts(tiny_report.folder(tmp_path)))
    shades = re.findall(r'<span style="--shade: ([\d.]+)" data-told="([^"]*)">([^<]*)</span>', page)
    assert [(shade, text) for shade, _, text in shades] == [
        ("0.0", "Once"), ("0.25", " &lt;i&gt;upon"), ("1.0", " a")
    ]  # fmt: skip
    assert "9.00 nats apart" in shades[2][1]
    assert "teacher: 50.0% for this; &#39;&lt;b&gt;&#39; 50.0%" in shades[2][1]
