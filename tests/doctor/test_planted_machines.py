"""What is wrong around a recipe is found: packages, devices, files, memory, disks, folders, caches, servers, weights."""

import shutil
import socket
import sys

import pytest
import score_server
import tiny_folder
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from tiny_doctor import assert_found, bad, config, examined, of, sound, stage, written
from transformers import AutoModelForCausalLM, AutoTokenizer

from limbeck import loading, prints, run
from limbeck.doctor import packages
from limbeck.folder import Folder
from limbeck.models import place as places
from limbeck.models import quantised

pytestmark = pytest.mark.usefixtures("handlers")
PLANTS = {}
WIDE = {
    "model_type": "llama",
    "hidden_size": 65_536,
    "intermediate_size": 262_144,
    "num_hidden_layers": 80,
    "num_attention_heads": 512,
    "max_position_embeddings": 128,
}


def installed(place, patch, name, version):
    """A package's folder of metadata before all others, as pip writes it."""
    folder = place / "site" / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    patch.syspath_prepend(str(place / "site"))


@of(PLANTS, "packages", r"torch 2\.5\.1 found: CVE-2026-24747.*2\.10 or newer")
def torch_below_its_floor(place, patch):
    installed(place, patch, "torch", "2.5.1")
    return {}


@of(PLANTS, "packages", r"transformers 5\.2\.0 found: CVE-2026-9856")
def transformers_below_its_floor(place, patch):
    installed(place, patch, "transformers", "5.2.0")
    return {}


@of(PLANTS, "packages", r"safetensors 0\.8\.0rc0 found")
def safetensors_before_its_release(place, patch):
    installed(place, patch, "safetensors", "0.8.0rc0")
    return {}


@of(PLANTS, "extras", "WANDB_API_KEY|wandb, which is not installed")
def tracker_without_a_key(place, patch):
    patch.delenv("WANDB_API_KEY", raising=False)
    return {"track": ["wandb"]}


@of(PLANTS, "extras", "'tensorboard' needs the package tensorboard, which is not installed")
def tracker_without_its_package(place, patch):
    patch.setitem(sys.modules, "tensorboard", None)
    return {"track": ["tensorboard"]}


@of(PLANTS, "models", r"limbeck\[(qlora|lora)\]")
def quantised_base_without_its_package(place, patch):
    quantised.library.cache_clear()
    for name in ("bitsandbytes", "bitsandbytes.functional"):
        patch.setitem(sys.modules, name, None)
    return {"student": {"adapters": {"rank": 2, "quantise": "nf4"}}}


@of(PLANTS, "device", "'elsewhere' is none that torch knows")
def device_that_is_none(place, _):
    return {"compute": {"device": "elsewhere"}}


@of(PLANTS, "device", "'cuda:99', but no CUDA device is here|CUDA devices are here")
def gpu_that_is_not_here(place, _):
    return {"teacher": {"live": {"model": str(place / "teacher"), "device": "cuda:99"}}}


@of(PLANTS, "device", "float16 on a CPU", severity="warning")
def halves_on_a_cpu(place, _):
    return {
        "teacher": {"live": {"model": str(place / "teacher"), "dtype": "float16", "device": "cpu"}}
    }


@of(PLANTS, "files", "no weights")
def folder_without_weights(place, _):
    (place / "teacher/model.safetensors").unlink()
    return {}


@of(PLANTS, "files", "1 of 2 shards are not there, such as model-00002-of-00002.safetensors")
def shard_that_is_missing(place, _):
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (place / "teacher/model.safetensors").rename(place / "teacher" / names[0])
    weights = {"lm_head.weight": names[0], "model.norm.weight": names[1]}
    config(place / "teacher", "model.safetensors.index.json", weight_map=weights)
    return {}


@of(PLANTS, "files", "never downloaded, and HF_HUB_OFFLINE", follows=("tokenizers",))
def model_of_the_hub_without_a_network(place, _):
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    return {"teacher": {"cached": {"model": name, "path": str(place / "cache")}}}


@of(PLANTS, "memory", r"about \d+\.\d+ GB are needed, cpu has", follows=("disk",))
def student_that_fits_no_machine(place, _):
    return {"student": {"scratch": {"config": WIDE}}}


@of(PLANTS, "disk", r"GB are still to be written.*GB are free")
def checkpoints_that_fit_no_disk(place, _):
    stages = [stage(place, budget="1000000000 steps")]
    return {"stages": stages, "checkpoints": {"every": 1, "keep_last": 1_000_000_000}}


@of(PLANTS, "disk", r"cannot be made: .*train\.jsonl is a file")
def runs_below_a_file(place, _):
    return {"runs": str(place / "text/train.jsonl/runs")}


@of(PLANTS, "run", "holds a run of another recipe")
def folder_of_another_run(place, _):
    asked = loading.load(written(place), ["seed=99"])
    Folder(place / "runs/tiny").begin(loading.dump(asked), prints.identity)
    return {}


def recorded(place):
    """A cache that a run of this recipe has filled."""
    run.record(loading.load(written(place)), rank=0, world=1)


@of(PLANTS, "cache", "recorded with teacher .* this recipe has teacher")
def cache_of_another_teacher(place, _):
    recorded(place)
    tiny_folder.teacher(place / "teacher", seed=5)
    return {}


@of(PLANTS, "cache", r"planes\.safetensors")
def cache_with_a_changed_byte(place, _):
    recorded(place)
    path = next((place / "cache").glob("shards/*/planes.safetensors"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    return {}


@of(PLANTS, "cache", "stages of 16 and of 32 tokens a row cannot be recorded into one cache")
def stages_of_two_lengths_in_one_cache(place, _):
    longer = tiny_folder.source(place, length=32)
    return {"stages": [stage(place), stage(place, name="longer", source=longer)]}


@of(PLANTS, "cache", "holds no cache.json")
def cache_that_nobody_can_fill(place, _):
    student = {"pretrained": {"model": str(place / "teacher")}}
    teacher = {"cached": {"path": str(place / "nothing")}}
    return {"teacher": teacher, "student": student, "evaluate": None}


@of(PLANTS, "weights", r"worse than guessing \(uniform guessing 5\.\d+ nats", weights=True)
def teacher_that_knows_nothing(place, _):
    tiny_folder.teacher(place / "teacher", seed=5)
    return {}


@of(PLANTS, "weights", "it says nan of the text", weights=True)
def teacher_of_broken_weights(place, _):
    path = place / "teacher/model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    return {}


@pytest.mark.parametrize("name", PLANTS)
def test_a_fault_around_a_recipe_is_found(tmp_path, monkeypatch, name):
    assert_found(tmp_path, PLANTS[name], monkeypatch)
    quantised.library.cache_clear()


def test_numbers_that_a_cpu_does_not_multiply_are_a_warning(tmp_path):
    if places.dtype_of("auto", torch.device("cpu")) == torch.bfloat16:
        pytest.skip("this CPU multiplies bfloat16")
    place = sound(tmp_path)
    found = examined(place, compute={"device": "cpu", "dtype": "bfloat16"})
    assert any(one.check == "device" for one in bad(found, "warning"))
    assert not bad(found)


def test_a_run_that_another_process_works_on_is_found(tmp_path):
    asked = loading.load(written(tmp_path))
    folder = Folder(tmp_path / "runs/tiny")
    folder.begin(loading.dump(asked), prints.identity)
    assert not bad(examined(tmp_path))
    assert not (folder.path / ".lock").exists()
    with FileLock(folder.path / ".lock"):
        (one,) = bad(examined(tmp_path))
    assert "in use by another process" in one.found


def test_every_floor_is_at_or_below_what_is_installed():
    assert not [one for one in packages.floors() if one.severity == "fault"]


def refused(place, patch, **given):
    """Faults of a recipe whose teacher is served here, with what is given of the server."""
    sound(place)
    shutil.copytree(place / "teacher", place / "student")
    model = AutoModelForCausalLM.from_pretrained(place / "teacher", dtype=torch.float32)
    tokenizer = given.pop("tokenizer", AutoTokenizer.from_pretrained(place / "teacher"))
    with score_server.scoring(model, tokenizer, most=given.pop("most", 32)) as served:
        server = {"url": served.url, "model": "tiny", "first_wait": 0} | given
        found = examined(
            place,
            teacher={"remote": {"server": server, "k": 16}},
            tokenizer=str(place / "teacher"),
            student={"pretrained": {"model": str(place / "student")}},
            evaluate=None,
        )
    assert {one.check for one in bad(found)} <= {"server"}
    return " ".join(one.found for one in bad(found)), found


def test_a_server_that_has_all_is_proved(tmp_path, monkeypatch):
    told, found = refused(tmp_path, monkeypatch)
    assert not told
    assert any("tokenizer proved by /tokenize" in one.found for one in found)


def test_a_server_with_too_few_scores_is_found(tmp_path, monkeypatch):
    assert "more scores than the max allowed, 8" in refused(tmp_path, monkeypatch, most=8)[0]


def test_a_server_with_another_tokenizer_is_found(tmp_path, monkeypatch):
    class Shouting:
        def __call__(self, text, *, add_special_tokens):
            return {"input_ids": [ord(character) for character in text]}

        def decode(self, ids):
            return "?"

    told, _ = refused(tmp_path, monkeypatch, tokenizer=Shouting())
    assert "the server makes other tokens" in told


def test_a_key_that_is_not_in_the_environment_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("DOCTOR_KEY", raising=False)
    told, _ = refused(tmp_path, monkeypatch, key="DOCTOR_KEY")
    assert "DOCTOR_KEY is not set" in told


def test_a_server_that_is_not_there_is_found(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    told, _ = refused(tmp_path, monkeypatch, url=url)
    assert url in told
