"""Benchmarks by name: which there are, which files their questions are read from, and their configurations for lm-eval.

lm-eval says how a question is put and what is counted; the files of `limbeck/evaluation/tasks/` only say that the rows
are here and not on the Hub. Nothing here imports lm-eval.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from limbeck import files
from limbeck.errors import DataError, LimbeckError, RecipeError
from limbeck.evaluation import _code
from limbeck.names import suggestion
from limbeck.recipe import Benchmarks
from limbeck.strict import parse_yaml

HERE = Path(__file__).parent / "tasks"
# Low-Rank Clone (Hao et al., 2025): the figure of each task that its tables print and average.
GROUPS = {
    "lrc9": {
        "sciq": "acc",
        "piqa": "acc",
        "winogrande": "acc",
        "arc_easy": "acc",
        "logiqa": "acc_norm",
        "arc_challenge": "acc_norm",
        "boolq": "acc",
        "mmlu": "acc",
        "commonsense_qa": "acc",
    }
}
# What lm-eval calls the splits that a task may lack.
_SPLITS = {
    "train": ("training_split", "fewshot_split"),
    "dev": ("fewshot_split",),
    "prompt": ("fewshot_split",),
    "validation": ("validation_split",),
    "test": ("test_split",),
}


@dataclass(frozen=True)
class Config:
    """What lm-eval is told of one of its tasks. judged: the split whose questions are asked."""

    name: str
    body: dict[str, Any]

    @property
    def data(self) -> dict[str, str]:
        """{split: file below the data folder}; empty for a group."""
        found: dict[str, str] = self.body.get("dataset_kwargs", {}).get("data_files", {})
        return found

    @property
    def judged(self) -> str:
        """The split whose questions are asked."""
        return "test" if "test" in self.data else "validation"

    def shots(self, asked: int | None) -> int:
        """How many examples stand before a question: lm-eval lets nobody change a task's own 0."""
        own: int = self.body.get("num_fewshot", -1)
        return max(own, 0) if asked is None or own == 0 else asked


def known() -> list[str]:
    """The tasks whose rows may lie in a folder."""
    return sorted(path.stem for path in HERE.iterdir() if not path.name.startswith("_"))


def wanted(asked: Benchmarks, where: str) -> list[str]:
    """The tasks that are asked for, groups taken apart, in their order and each once.

    where: what stands before a key's name in errors. Of a data folder, names are checked here; of the Hub, lm-eval
    knows them.
    """
    found: dict[str, None] = {}
    for name in asked.tasks:
        found |= dict.fromkeys(GROUPS.get(name, {name: ""}))
    if asked.data is not None:
        there = [*GROUPS, *known()]
        for name in (*found, *asked.without):
            if name not in there:
                raise RecipeError(
                    f"{where}tasks: there are no questions of '{name}'.{suggestion(name, there)} With 'data' left out, "
                    "lm-eval takes any of its own tasks from the Hub."
                )
    for name in asked.without:
        if name not in found:
            raise RecipeError(
                f"{where}without: '{name}' is not among the tasks.{suggestion(name, list(found))}"
            )
    left = [name for name in found if name not in asked.without]
    if not left:
        raise RecipeError(f"{where}without: every task is left out; wanted one or more.")
    return left


def lm_eval_tasks() -> Path:
    """Where lm-eval keeps its own configurations; raises where it is not installed."""
    try:
        found = importlib.util.find_spec("lm_eval")
    except ValueError:  # somebody barred it
        found = None
    if found is None or not found.submodule_search_locations:
        raise LimbeckError(
            "lm-eval is needed for benchmarks. Install it: pip install 'limbeck[harness]'."
        )
    return Path(found.submodule_search_locations[0]) / "tasks"


def configs(name: str) -> list[Config]:
    """The configurations that make a task: one, or a group's and those of all its parts."""
    single = HERE / f"{name}.yaml"
    if single.is_file():
        return [_config(single)]
    found = []
    for path in sorted((HERE / name).glob("*.yaml")):
        if path.stem != "subject":
            found.append(_config(path))
            continue
        for subject in sorted((lm_eval_tasks() / name / "default").glob(f"{name}_*.yaml")):
            found.append(_config(path, subject.stem.removeprefix(f"{name}_")))
    return found


def _config(path: Path, subject: str = "") -> Config:
    text = path.read_text(encoding="utf-8").replace("SUBJECT", subject)
    body = parse_yaml(text, str(path))
    return Config(body.get("task", path.stem), body)


def check(asked: Benchmarks, where: str) -> list[str]:
    """The tasks that are asked for, once lm-eval and every file that they need are there. Loads neither."""
    found = wanted(asked, where)
    _code.check(found, asked, where)
    lm_eval_tasks()
    if asked.data is None:
        return found
    folder = Path(asked.data).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{where}data: there is no folder {folder}; wanted one with a folder for each task. Correct the path, or "
            "leave it out to have lm-eval take the rows from the Hub."
        )
    lacking = {name: _lacking(name, folder, asked) for name in found}
    lacking = {name: paths for name, paths in lacking.items() if paths}
    if lacking:
        paths = [path for each in lacking.values() for path in each]
        told = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
        raise DataError(
            f"{where}data: {folder} lacks {told}. Put the rows there, one JSON object a line with the columns that "
            f"lm-eval's task reads, or leave out, by 'without': {', '.join(lacking)}."
        )
    return found


def _lacking(name: str, folder: Path, asked: Benchmarks) -> list[str]:
    """The files that are missing: the questions, or the examples that are to stand before them."""
    found = []
    for config in configs(name):
        if not config.data:
            continue
        judged = config.data[config.judged]
        if not _filled(folder / judged):
            found.append(judged)
        others = [path for split, path in config.data.items() if split != config.judged]
        if config.shots(asked.few_shot) and not any(_filled(folder / path) for path in others):
            # Examples out of the questions themselves would tell answers.
            examples = others[0] if others else f"examples for {config.name} (it has none)"
            found.append(f"{examples} (for {config.shots(asked.few_shot)} examples)")
    return found


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def write(names: Sequence[str], asked: Benchmarks, folder: Path) -> None:
    """Writes the configurations of tasks for this machine, so that `lm_eval --include_path FOLDER` finds them too."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.yaml"):
        old.unlink()
    for name in names:
        for config in configs(name):
            text = yaml.safe_dump(_here(config, asked), sort_keys=False)
            # A string to us, a function to lm-eval.
            text = re.sub(r"'(!function [\w.]+)'", r"\1", text)
            files.write_bytes(folder / f"{config.name}.yaml", text.encode())


def _here(config: Config, asked: Benchmarks) -> dict[str, Any]:
    """The same with whole paths, and without the splits that have no file."""
    body = dict(config.body)
    if config.name in _code.TASKS:
        body = _code.configured(body, asked)
    else:
        body["include"] = str(lm_eval_tasks() / body["include"])
    if not config.data or asked.data is None:
        return body
    data = Path(asked.data).expanduser().resolve()
    there = {split: str(data / path) for split, path in config.data.items() if _filled(data / path)}
    for split in config.data.keys() - there.keys():
        body |= dict.fromkeys(_SPLITS[split])
    return body | {"dataset_kwargs": {"data_files": there}}


def fingerprint(name: str, data: str | None) -> str:
    """What the questions of a task are: SHA-256 over its files, or `hub` where lm-eval gets them itself."""
    if data is None:
        return "hub"
    total = hashlib.sha256()
    for config in configs(name):
        for path in config.data.values():
            whole = Path(data).expanduser() / path
            if _filled(whole):
                total.update(f"{path} {files.file_digest(whole)}\n".encode())
    return total.hexdigest()
