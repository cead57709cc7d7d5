"""How fast the models of a run, or one model, read prompts and write behind them: measured in turns, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from limbeck import assembly, files, judging, provenance
from limbeck.assembly import Ground
from limbeck.benchmarking import Named
from limbeck.errors import LimbeckError, ModelError, RecipeError
from limbeck.evaluation import _speed
from limbeck.folder import Folder, locked
from limbeck.models import load, place
from limbeck.progress import say
from limbeck.recipe import Speed
from limbeck.report import speeds


def of_run(base: Ground, folder: Folder, asked: Speed, command: str) -> None:
    """Measures teacher, student and control beside each other; nothing where that was done of the same models.

    A model that keeps no cache which transformers can write from is left out, with a note.
    """
    told = _about(asked, base.dtype, base.device) | {"models": _marks(base, folder)}
    to = folder.path / "evaluation"
    if {key: speeds.read(to).get(key) for key in told} == told:
        say("speed: it was measured already.")
        return
    models = judging.models_of(base, folder)
    if not models:
        raise LimbeckError(f"{folder.path} has no model to measure: 'limbeck train' makes them.")
    _measure(models, asked, base.device, to, told | {"command": command})


def of_model(model: Named, asked: Speed, command: str) -> None:
    """Measures one model, and prints what was found."""
    device = place.device_of(model.device)
    dtype = place.dtype_of(model.dtype, device)
    to = model.to or Path("evaluations") / Path(model.name).expanduser().resolve().name
    with locked(to, to / ".lock", "Wait for it, stop it, or give another folder with --to."):
        loaded = load.load_model(model.name, dtype=dtype).to(device)
        told = _about(asked, dtype, device) | {"models": {"model": load.fingerprint(model.name)}}
        _measure({"model": loaded}, asked, device, to, told | {"command": command})
    judging.tell_speed(to)
    say(f"All of it is in {to}.")


def _measure(
    models: dict[str, PreTrainedModel],
    asked: Speed,
    device: torch.device,
    to: Path,
    about: dict[str, Any],
) -> None:
    _check_room(models, asked)
    able = {name: model for name, model in models.items() if _writes(name, model, device)}
    if not able:
        raise ModelError("speed: none of the models keeps a cache of transformers to write from.")
    found = _speed.measure_speed(
        able,
        lengths=asked.lengths,
        batch=asked.batches,
        new_tokens=asked.new_tokens,
        rounds=asked.rounds,
        device=device,
    )
    files.write_json(to / f"{speeds.NAME}.json", about | {"sizes": found})


def _check_room(models: dict[str, PreTrainedModel], asked: Speed) -> None:
    """Refuses sizes for which a model with learned positions has none; those that turn by angle go on beyond."""
    wanted = max(asked.lengths) + asked.new_tokens
    for name, model in models.items():
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        learned = any(
            isinstance(part, torch.nn.Embedding) and ("position" in where or where.endswith("wpe"))
            for where, part in model.named_modules()
        )
        if learned and room is not None and wanted > room:
            raise RecipeError(
                f"speed: {name} has {room:,} learned positions; prompts of {max(asked.lengths):,} tokens and "
                f"{asked.new_tokens:,} written need {wanted:,}. Give smaller --lengths or --new-tokens."
            )


def _writes(name: str, model: PreTrainedModel, device: torch.device) -> bool:
    """Whether a model can be measured: one token, to see what it keeps."""
    try:
        _speed.state_of(model.to(device).eval())
    except ModelError as reason:
        say(f"note: {name} is left out: {reason}")
        return False
    return True


def _about(asked: Speed, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What the figures depend on beside the models."""
    return {
        "asked": asked.model_dump(mode="json"),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "hardware": provenance.hardware(),
    }


def _marks(base: Ground, folder: Folder) -> dict[str, str]:
    """What each model of a run is made of."""
    found = {}
    teacher = assembly.teacher_model(base.recipe)
    if teacher is not None:
        found["teacher"] = load.fingerprint(teacher.name, teacher.revision)
    for title, path in (("student", folder.export), ("control", folder.control.export)):
        if path.is_dir():
            found[title] = load.fingerprint(str(path))
    return found
