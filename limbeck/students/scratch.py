"""A model made from a config, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from limbeck import files
from limbeck.errors import RecipeError
from limbeck.models.load import sanitised
from limbeck.names import suggestion
from limbeck.types import Materials

# Keys of published configs that transformers 5 reads and writes under other names.
_OLDER = {"rope_theta", "rope_scaling", "torch_dtype"}


def scratch(
    materials: Materials,
    *,
    config: str | dict[str, Any],
) -> PreTrainedModel:
    """A new model. config: path of a JSON file, or the sizes themselves with `model_type`.

    Vocabulary and special ids are the teacher's where the config does not give them. The weights are drawn
    from torch's global generator, which the run seeds before it builds a student.
    """
    values = _sizes(config) if isinstance(config, str) else dict(config)
    if materials.config is not None:
        for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
            values.setdefault(key, getattr(materials.config, key, None))
    if "model_type" not in values:
        raise RecipeError(
            "student.scratch.config: 'model_type' is not given; wanted such as 'llama'."
        )
    if "vocab_size" not in values:
        raise RecipeError(
            "student.scratch.config: 'vocab_size' is not given, and there is no teacher."
        )
    return AutoModelForCausalLM.from_config(known_config(values))


def known_config(values: dict[str, Any]) -> PretrainedConfig:
    """The config of these sizes; a key that its family does not have is an error, not swallowed."""
    clean = sanitised(dict(values), "student.scratch.config")
    family = clean.pop("model_type")
    try:
        plain = AutoConfig.for_model(family)
    except ValueError as reason:
        raise RecipeError(f"student.scratch.config: transformers has no '{family}'.") from reason
    known = sorted(set(plain.to_dict()) | set(plain.attribute_map) | {"architectures"} | _OLDER)
    for key in clean:
        if key not in known:
            raise RecipeError(
                f"student.scratch.config: '{family}' has no size '{key}'.{suggestion(key, known)}"
            )
    return AutoConfig.for_model(family, **clean)


def _sizes(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise RecipeError(f"student.scratch.config: there is no file {path}.")
    found = files.read_json(Path(path))
    if not isinstance(found, dict):
        raise RecipeError(
            f"student.scratch.config: {path} holds {type(found).__name__}; wanted one object of sizes."
        )
    return found
