"""What is pushed is the export, whole, in one commit; what cannot be pushed leaves the Hub as it was."""

import os
import subprocess
import sys

import pytest
import tiny_push_hub
from huggingface_hub import constants

from limbeck import files
from limbeck.errors import LimbeckError
from limbeck.pushing import Target, push
from limbeck.recarding import recarded

CARD = "---\ntags: [limbeck]\n---\n\n# tiny\n\nMade in /data/somebody/runs.\n"


@pytest.fixture
def run(tmp_path):
    """A run's folder with the exports of student and control."""
    place = tmp_path / "tiny"
    for arm in (place, place / "control"):
        with files.committed(arm / "export", {"kind": "export"}) as partial:
            (partial / "README.md").write_text(CARD)
            (partial / "config.json").write_text("{}")
            (partial / "model.safetensors").write_bytes(os.urandom(300_000))
    (place / "recipe.yaml").write_text("name: tiny\n")
    return place


@pytest.fixture
def login(monkeypatch, tmp_path):
    """Asks this Hub as its owner would; huggingface_hub reads the environment when it is imported."""

    def to(hub, token=tiny_push_hub.TOKEN):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "nobody"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)

    return to


def in_a_process(hub, *words):
    """`limbeck push` as a user gives it."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": tiny_push_hub.TOKEN}
    return subprocess.run(
        [sys.executable, "-m", "limbeck", "push", *map(str, words)],
        env=env, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_student_is_there_byte_for_byte_in_one_commit_and_the_token_nowhere(run):
    with tiny_push_hub.serving() as hub:
        done = in_a_process(hub, run, "someone/tiny", "--private")
    assert done.returncode == 0, done.stderr
    assert hub.repos["someone/tiny"]["main"] == contents(run / "export")
    assert hub.private is True
    assert hub.summary == "Limbeck: tiny"
    assert done.stdout.startswith(f"Pushed: {hub.url}/someone/tiny/commit/")
    assert "/data/somebody/runs" in done.stderr  # the card is for others to read
    assert len(hub.commits) == len(hub.sent) == 1
    everything = done.stdout + done.stderr + (run / "audit.jsonl").read_text()
    assert tiny_push_hub.TOKEN not in everything
    assert '"command": "limbeck push"' in everything


def test_a_folder_a_branch_and_a_control_and_nothing_is_sent_twice(run, login):
    with tiny_push_hub.serving() as hub:
        login(hub)
        first = push(run, Target("someone/tiny"))
        assert push(run, Target("someone/tiny")) == first  # the same commit: nothing is new
        assert len(hub.commits) == 1
        push(run / "export", Target("someone/tiny", "other"))
        assert hub.repos["someone/tiny"]["other"] == contents(run / "export")
        assert len(hub.sent) == 1
        push(run, Target("someone/tiny"), control=True)
        assert hub.repos["someone/tiny"]["main"] == contents(run / "control/export")


def manifest(*names, kind="export"):
    """What an earlier push left to say of itself."""
    listed = {name: {"size": 2, "sha256": "0" * 64} for name in names}
    return files.sealed({"format": 1, "files": listed, "about": {"kind": kind}})


def test_weights_of_a_push_before_do_not_stay_beside_new_ones_and_others_do(run, login, capsys):
    old = "model-00001-of-00002.safetensors"
    by_hand = ("notes.md", "onnx/model.bin", "adapter_model.safetensors")
    there = dict.fromkeys((old, *by_hand), b"{}") | {"manifest.json": manifest(old)}
    with tiny_push_hub.serving({"someone/tiny": {"main": there}}) as hub:
        login(hub)
        push(run, Target("someone/tiny"))
        assert set(hub.repos["someone/tiny"]["main"]) == {*contents(run / "export"), *by_hand}
    assert f"takes away what an earlier push left there: {old}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "theirs",
    [
        {"model.safetensors": b"theirs", "README.md": b"theirs"},
        {"model.gguf": b"theirs"},
        {"model.safetensors": b"theirs", "manifest.json": b'{"a": 1}'},
        {"model.safetensors": b"theirs", "manifest.json": manifest(kind="text")},
    ],
)
def test_another_model_is_not_written_over_unless_told(run, login, theirs):
    with tiny_push_hub.serving({"someone/else": {"main": dict(theirs)}}) as hub:
        login(hub)
        with pytest.raises(LimbeckError, match="holds a model that limbeck did not push"):
            push(run, Target("someone/else"))
        assert hub.repos["someone/else"]["main"] == theirs
        push(run, Target("someone/else", "mine"))  # a new branch holds this and nothing else
        assert hub.repos["someone/else"]["mine"] == contents(run / "export")
        push(run, Target("someone/else", replace=True))
        assert hub.repos["someone/else"]["main"].items() >= contents(run / "export").items()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("forbidden/tiny", r"the Hub answered 403 .*This login may not write there"),
        ("tiny", "wanted OWNER/NAME"),
        ("some one/tiny", "is no name of a repository"),
    ],
)
def test_what_the_hub_or_sense_refuses_is_told(run, login, name, told):
    with tiny_push_hub.serving() as hub:
        login(hub)
        with pytest.raises(LimbeckError, match=told):
            push(run, Target(name))
    assert hub.repos == {}


def test_without_a_login_or_a_hub_it_says_so(run, login, monkeypatch):
    with tiny_push_hub.serving() as hub:
        for token, told in ((None, "nobody is logged in"), ("other", "The token is not valid")):
            login(hub, token)
            with pytest.raises(LimbeckError, match=told):
                push(run, Target("someone/tiny"))
        login(hub)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(LimbeckError, match="HF_HUB_OFFLINE is set"):
            push(run, Target("someone/tiny"))
    assert hub.repos == {}


def test_a_broken_commit_leaves_the_repository_as_it_was_and_weights_are_not_sent_again(run, login):
    with tiny_push_hub.serving(refuse={("POST", "/commit/main"): [403]}) as hub:
        login(hub)
        with pytest.raises(LimbeckError, match="403"):
            push(run, Target("someone/tiny"))
        assert hub.repos == {"someone/tiny": {"main": {}}}
        push(run, Target("someone/tiny"))
        assert hub.repos["someone/tiny"]["main"] == contents(run / "export")
        assert len(hub.sent) == 1


def test_a_new_branch_goes_where_nothing_comes_of_it(run, login):
    with tiny_push_hub.serving(refuse={("POST", "/commit/mine"): [400]}) as hub:
        login(hub)
        with pytest.raises(LimbeckError, match=r"the Hub answered 400 \(refused\)\.$"):
            push(run, Target("someone/tiny", "mine"))
        assert hub.repos == {"someone/tiny": {"main": {}}}


def test_private_does_not_go_into_what_everybody_reads(run, login):
    with tiny_push_hub.serving({"someone/tiny": {"main": {}}}) as hub:
        login(hub)
        with pytest.raises(LimbeckError, match="everybody can read it"):
            push(run, Target("someone/tiny", private=True))
        assert hub.repos["someone/tiny"]["main"] == {}


def test_weights_that_are_refused_on_the_way_are_told(run, login):
    oid = files.file_digest(run / "export/model.safetensors")
    with tiny_push_hub.serving(refuse={("PUT", oid): [403] * 9}) as hub:
        login(hub)
        with pytest.raises(LimbeckError, match=r"push: someone/tiny: .*403"):
            push(run, Target("someone/tiny"))
        assert hub.repos["someone/tiny"]["main"] == {}


def test_folders_and_servers_of_its_maker_are_told(run, login, capsys):
    own = ("/scratch/me/runs", "https://gpu7.intern.example:8000/v1", "~/models/x")
    paths = "".join(f"- path: {place}\n" for place in own)
    with tiny_push_hub.serving() as hub:
        login(hub)
        recarded(run / "export", f"{CARD}{paths}{hub.url}/someone/tiny\n")
        push(run, Target("someone/tiny"))
    said = capsys.readouterr().err
    assert all(place in said for place in own)
    assert hub.url not in said


def test_other_bytes_on_the_hub_than_here_are_seen(run, login):
    with tiny_push_hub.serving() as hub:
        login(hub)
        hub.lie = {"config.json"}
        with pytest.raises(
            LimbeckError, match=r"config\.json in someone/tiny is not the file here"
        ):
            push(run, Target("someone/tiny"))


def test_a_damaged_export_a_run_without_one_and_another_folder_are_refused(run, login, tmp_path):
    with files.committed(tmp_path / "text", {"kind": "generated text"}) as partial:
        (partial / "train.jsonl").write_text("")
    (tmp_path / "several/students/1-pruned").mkdir(parents=True)
    (run / "export/config.json").write_text("[]")
    (run / "control/export").rename(tmp_path / "aside")
    with tiny_push_hub.serving() as hub:
        login(hub)
        for what, control, told in (
            (run, False, r"config\.json"),
            (run, True, "nothing was exported"),
            (tmp_path / "several", False, "has several students"),
            (tmp_path / "text", False, "wanted an export"),
            (tmp_path / "aside", True, "--control is of a run"),
            (tmp_path, False, "neither a run"),
        ):
            with pytest.raises(LimbeckError, match=told):
                push(what, Target("someone/tiny"), control=control)
    assert hub.seen == []
