"""`limbeck probe` prints what is lost and writes all of it; what cannot be probed is refused before weights are read."""

import json
import sys
from pathlib import Path

import pytest
import tiny_planted

from limbeck import cli, probing
from limbeck.errors import LimbeckError, ModelError, RecipeError
from limbeck.models import load, probe

MODEL = Path(__file__).parents[1] / "models/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("planted")
    tiny_planted.model().save_pretrained(found)
    tiny_planted.tokenizer().save_pretrained(found)
    return found


def test_layers_and_heads_are_told_and_written_whole(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    to = tmp_path / "probe.json"
    words = [str(folder), "--pairs", "6", "--prompts", "10", "--seed", "3", "--json", str(to)]
    monkeypatch.setattr(sys, "argv", ["limbeck", "probe", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    said = capsys.readouterr()
    found = json.loads(to.read_text())
    assert found["settings"] == {
        "model": str(folder),
        "pairs": 6,
        "prompts": 10,
        "seed": 3,
        "heads": True,
        "device": "auto",
        "dtype": "float32",
    }
    assert found["baseline"]["accuracy"] == 1
    assert found["baseline"]["chance"] == pytest.approx(1 / 6)
    assert found["fingerprint"] == load.fingerprint(str(folder))
    assert found["ranked"] == [one["layer"] for one in found["layers"]]
    assert sorted(found["ranked"]) == [0, 1, 2, 3, 4]
    assert set(found["ranked"][:2]) == set(found["ranked_by_heads"][:2]) == {1, 3}
    assert f"By their sum: {found['ranked_by_heads'][0]}, " in said.out.replace("\n", " ")
    assert len(found["heads"]) == 10
    best = {(one["layer"], one["head"]) for one in found["heads"][:2]}
    assert best == {tiny_planted.GATHER, tiny_planted.AGGREGATE}
    first = found["layers"][0]
    assert set(first) == {"layer", "accuracy", "logprob", "error", "of_heads"}
    (line,) = [line for line in said.out.splitlines() if line.startswith("│ 1 ") and "│ 0" in line]
    assert f"layers.{found['heads'][0]['layer']}" in line
    assert f"{first['logprob']:.4f} ± {first['error']:.4f}" in said.out
    assert "silence 15 times (blocks)" in said.err


def test_layers_alone_are_told_without_heads(folder, tmp_path, capsys):
    to = tmp_path / "probe.json"
    probing.show(probing.Asked(str(folder), prompts=6, pairs=6, heads=False), to)
    said, found = capsys.readouterr().out, json.loads(to.read_text())
    assert "Heads" not in said
    assert found["heads"] == []
    assert "of_heads" not in found["layers"][0]
    assert found["ranked_by_heads"] == []
    assert "(--heads)" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 1}, "of 2 to 50 pairs"),
        ({"prompts": 0}, "wanted 1 prompt or more"),
        ({"dtype": "float8"}, "dtype: 'float8' found; wanted auto or one of"),
        ({"device": "abacus"}, "none that torch knows"),
        ({"model": "./nowhere"}, "no such folder"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_weights_are_read(
    folder, changes, message, monkeypatch
):
    monkeypatch.setattr(load, "load_model", None)
    asked = {"model": str(folder), **changes}
    with pytest.raises(LimbeckError, match=message):
        probing.show(probing.Asked(**asked))


def test_a_model_without_attention_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "load_model", None)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mamba2", "hidden_size": 64, "num_heads": 2, "head_dim": 64})
    )
    with pytest.raises(ModelError, match=r"has a 'self_attn'; wanted attention as in Llama"):
        probing.show(probing.Asked(str(tmp_path)))


def test_a_place_that_does_not_exist_is_refused_before_the_work(folder, tmp_path):
    with pytest.raises(RecipeError, match=r"there is no folder .*nowhere for --json"):
        probing.show(probing.Asked(str(folder)), tmp_path / "nowhere/probe.json")


@pytest.mark.slow
@pytest.mark.skipif(
    not (MODEL / "model.safetensors").is_file(),
    reason=f"no {MODEL.name} in models/: limbeck fetch smollm2",
)
def test_a_real_teacher_looks_up_with_few_of_its_layers():
    model, tokenizer = load.load_model(str(MODEL)), load.load_tokenizer(str(MODEL))
    found = probe.probe(model, tokenizer, prompts=25, pairs=5, heads=False)
    assert found.accuracy > 0.5
    lost = [found.layers[layer].logprob for layer in found.ranked()]
    assert len(lost) == 30
    # The five that are needed most cost more than the twenty that are needed least.
    assert sum(lost[:5]) > sum(abs(one) for one in lost[10:])
