"""A tiny teacher's folder, a tiny corpus and a recipe of both: a whole run in seconds, from text to report."""

import contextlib
import copy
import json
import random
from pathlib import Path

import tiny
import tiny_text
import yaml
from safetensors.torch import load_file
from torch import Tensor

from limbeck import assembly, fitting, loading, run
from limbeck.arm import train
from limbeck.folder import Folder, owned
from limbeck.recipe import Recipe
from limbeck.training import parallel

VOCAB = 320
LENGTH = 16
STEPS = 24
ROWS = 4


def teacher(folder: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """A random Llama of width 32 and the tokenizer of tiny_text, as an ordinary Hugging Face folder."""
    model = tiny.llama(vocab=VOCAB, width=32, layers=layers, seed=seed)
    model.save_pretrained(folder)
    tiny_text.tokenizer(VOCAB).save_pretrained(folder)
    return folder


def sentences(count: int, *, seed: int) -> list[str]:
    """Documents of the words of PROSE in a random order, so that no row stands twice."""
    words, draw = tiny_text.PROSE.split(), random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(12, 30))) for _ in range(count)]


def corpus(folder: Path) -> Path:
    """Text to train on and text to judge by, one document a line."""
    folder.mkdir()
    for split, count, seed in (("train", 100, 1), ("held_out", 40, 2)):
        lines = [json.dumps({"text": text}) + "\n" for text in sentences(count, seed=seed)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def source(place: Path, **changes: object) -> dict:
    """The source of a stage, as a recipe spells it."""
    plain = {"path": str(place / "text"), "length": LENGTH, "prepared": str(place / "prepared")}
    return {"text": plain | changes}


def talk(place: Path, **changes: object) -> dict:
    """A source of conversations, whose answers are what follows their questions in PROSE; written where missing."""
    folder = place / "talk"
    if not folder.exists():
        folder.mkdir()
        for split, count, seed in (("train", 100, 1), ("held_out", 40, 2)):
            rows = [
                {"prompt": " ".join(words[:4]), "response": " ".join(words[4:10])}
                for words in map(str.split, sentences(count, seed=seed))
            ]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = {"path": str(folder), "length": 64, "prepared": str(place / "prepared")}
    return {"chat": plain | {"template": "chatml"} | changes}


def stage(place: Path, **changes: object) -> dict:
    """A stage of 24 steps of 4 rows."""
    plain = {
        "name": "distil",
        "source": source(place),
        "objective": ["forward_kl"],
        "budget": f"{STEPS} steps",
        "rows_per_step": ROWS,
        "micro_rows": 2,
        "optimizer": {"learning_rate": 2e-2, "schedule": "constant"},
    }
    return plain | changes


def cached(place: Path, **changes: object) -> dict:
    """A teacher whose 32 likeliest tokens are recorded."""
    plain = {
        "model": str(place / "teacher"),
        "path": str(place / "cache"),
        "k": 32,
        "kind": "topk+rest",
        "values": "float32",
    }
    return {"cached": plain | changes}


def tree(place: Path, **changes: object) -> dict:
    """A recipe with cached teacher, pruned student, control and evaluation; the parts are made where missing."""
    if not (place / "teacher").exists():
        teacher(place / "teacher")
        corpus(place / "text")
    plain = {
        "name": "tiny",
        "seed": 3,
        "teacher": cached(place),
        "student": {"pruned": {"layers": 2}},
        "stages": [stage(place)],
        "control": True,
        "compute": {"device": "cpu", "dtype": "float32", "threads": 1, "chunk": 24},
        "checkpoints": {"every": 8},
        "evaluate": {
            "source": source(place, split="held_out"),
            "rows": 16,
            "prompt": "The alembic",
            "sample_tokens": 4,
        },
        "runs": str(place / "runs"),
    }
    return plain | changes


def recipe(place: Path, **changes: object) -> Recipe:
    """The same, checked and ready to be carried out."""
    return fitting.check(loading.build(copy.deepcopy(tree(place, **changes))))


def written(place: Path, **changes: object) -> Path:
    """The same as a YAML file."""
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree(place, **changes)))
    return path


def folder(asked: Recipe) -> Folder:
    """Where a recipe's run lies."""
    return Folder(Path(asked.runs) / asked.name)


def trained(asked: Recipe, *, stop=lambda: False) -> Folder:
    """Trains all arms of a recipe and leaves out what follows: export, which takes a process of its own."""
    base, here = assembly.ground(asked), folder(asked)
    with owned(here.path):
        for arm in run.arms(base, parallel.start(base.device), here, stop):
            arm.folder.path.mkdir(exist_ok=True)
            train([arm])
    return here


def contents(place: Path, *leaving_out: str) -> dict[str, bytes]:
    """The bytes of every file below a folder, hidden ones too, by relative path."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and path.name not in leaving_out:
            with contextlib.suppress(FileNotFoundError):
                found[path.relative_to(place).as_posix()] = path.read_bytes()
    return found


def short(place: Path, name: str, **changes: object) -> Recipe:
    """A recipe of 4 steps without control, for what is not about learning."""
    stages = changes.pop("stages", [stage(place, budget="4 steps")])
    plain = {"name": name, "stages": stages, "control": False, "checkpoints": {"every": 2}}
    return recipe(place, **plain | changes)


def final(folder: Folder, step: int, stage: str = "1-distil") -> Path:
    """The checkpoint of a step."""
    return folder.path / "stages" / stage / "checkpoints" / f"{step:06d}"


def weights(folder: Folder, step: int, stage: str = "1-distil") -> dict[str, Tensor]:
    """The parameters that a checkpoint holds, without the optimizer's moments."""
    tensors = load_file(final(folder, step, stage) / "rank-0000.safetensors")
    # Cloned: what is loaded may be a view of the file, which changes when a test damages it.
    return {name: tensor.clone() for name, tensor in tensors.items() if ":" not in name}


def stamps(folder: Path) -> dict[Path, int]:
    """When each file of tensors was written: it changes when one is written again."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in found if path.suffix == ".safetensors"}
