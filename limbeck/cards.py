"""What a model card tells of an arm, before and after it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck import assembly, exporting, judging, loading, provenance
from limbeck.folder import Folder
from limbeck.models import load
from limbeck.standing import Arm, trained_steps


def facts(arm: Arm, student: Any, tokens: int) -> dict[str, Any]:
    """What the model card tells."""
    teacher = assembly.teacher_model(arm.recipe)
    terms = [f"{term.name}" for stage in arm.recipe.stages for term in stage.terms]
    return {
        "name": f"{arm.recipe.name}, {arm.title}",
        "teacher": teacher.name if teacher else None,
        "commit": provenance.commit()["commit"],
        "fingerprint": load.fingerprint(teacher.name, teacher.revision) if teacher else "none",
        "method": f"{arm.recipe.student.name} student, {' + '.join(dict.fromkeys(terms))}",
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "tokens": tokens,
        "command": "limbeck train recipe.yaml",
        "recipe": loading.dump(arm.recipe),
        "versions": provenance.versions(),
        "measures": {},
    }


def renew(arms: Sequence[Arm], folder: Folder) -> None:
    """Writes the model cards anew, now with figures."""
    figures = {
        name: found for name, found in judging.read(folder).items() if name != judging.MODELS
    }
    for arm in arms:
        model = load.build_on_meta(load.load_config(str(arm.folder.export)))
        tokens = sum(
            trained_steps(arm, index)
            * stage.rows_per_step
            * assembly.stage_source(arm.base, stage).length
            for index, stage in enumerate(arm.recipe.stages)
        )
        told = facts(arm, model, tokens) | {"measures": figures}
        exporting.recarded(arm.folder.export, exporting.card(told))  # no work where it is the same
