"""Models, tokenizers and configs from a local folder or the Hugging Face hub, read as data and never as code.

A config is checked before transformers sees it, since an `auto_map` or an attention implementation with a slash in
its name asks transformers to fetch and run code. Weights are safetensors only: other formats are pickles.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from limbeck import files
from limbeck.errors import ModelError
from limbeck.models import published
from limbeck.models.attention import offered

# What transformers and torch raise of a config whose values are of a wrong kind or size.
_UNFIT = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(RuntimeError, ImportError, StrictDataclassError),
)
_CONFIG = ("config.json",)
_TOKENIZER = (
    *("config.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "*.jinja"),
)
# Weights of the same model for other programs, which some repositories hold as well.
_NOT_OURS = ["*/*", "consolidated*"]
_MODEL = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")


def load_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
) -> PreTrainedModel:
    """A causal language model in eval mode, all of it read from files. attention: None is sdpa where the family has it, else eager."""
    bar_kernels()
    transformers_logging.disable_progress_bar()  # its bars would stand in the way of ours
    folder = _folder(name, revision, _MODEL)
    config = _config(folder / "config.json", name)
    if not list(folder.glob("*.safetensors")):
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt"))
        found = f"found {', '.join(others)}, which are pickles" if others else "found no weights"
        raise ModelError(
            f"{name}: {found}; wanted model.safetensors in {folder}. Convert them with save_pretrained."
        )
    _refuse_code("attention", attention, name)
    try:
        if published.is_published(_object(folder / "config.json")):
            return published.load(folder, cast(Any, config), name, dtype)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention or offered(config),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except SafetensorError as reason:
        raise ModelError(
            f"{name}: weights in {folder} are cut short or damaged ({reason}); wanted whole safetensors files. 'limbeck doctor' names the file: bring it again."
        ) from reason
    except (OSError, *_UNFIT) as reason:
        raise ModelError(f"{name}: the model in {folder} does not load: {reason}") from reason
    _complete(report, name, folder)
    return model.eval()


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model."""
    folder = _folder(name, revision, _TOKENIZER)
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if path.is_file():
            sanitised(_object(path), str(path))
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, *_UNFIT) as reason:
        lacking = not any((*folder.glob("tokenizer.*"), *folder.glob("vocab.*")))
        said = "it lacks tokenizer.json. Copy it there from the model that this one was made of, or set 'tokenizer' in the recipe"
        told = said if lacking else f"{type(reason).__name__}: {str(reason).rstrip('.')}"
        raise ModelError(f"{name}: no tokenizer loads from {folder}: {told}.") from reason


def load_config(name: str, *, revision: str | None = None) -> PretrainedConfig:
    """The config of a model, without its weights.

    Looked for in the folder, in what was downloaded before, among the configs that Limbeck carries, and last on
    the hub: a plan is answered at once, also where the hub cannot be reached or the model is gated.
    """
    known = known_config_file(name)
    if known is None or Path(name).expanduser().is_dir():
        return _config(_folder(name, revision, _CONFIG) / "config.json", name)
    cached = _downloaded(name, revision, _CONFIG)
    file = cached / "config.json" if cached is not None else known
    return _config(file if file.is_file() else known, name)


def known_config_file(name: str) -> Path | None:
    """The config of a well-known model that stands beside the recipes, if there is one."""
    file = Path(__file__).parents[2] / "recipes" / "configs" / f"{name.replace('/', '--', 1)}.json"
    return file if "/" in name and ".." not in name and file.is_file() else None


def fingerprint(name: str, revision: str | None = None) -> str:
    """What exactly was loaded: SHA-256 over config and weights of a folder, or the commit of a hub model."""
    if not Path(name).expanduser().is_dir():
        # The cache of the hub keeps each commit in a folder of its name.
        return _folder(name, revision, _CONFIG).name
    folder = _folder(name, revision, _CONFIG)
    total = hashlib.sha256()
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        seen = path.stat()
        total.update(f"{path.name} {_digest(path, seen.st_size, seen.st_mtime_ns)}\n".encode())
    return total.hexdigest()


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:  # noqa: ARG001
    """The digest of a file, computed once a process for each state of it: weights take minutes to hash."""
    return files.file_digest(path)


def stops(name: str, *, revision: str | None = None) -> list[int]:
    """The ids at which generation of this model ends, by its generation config or else its config."""
    folder = _folder(name, revision, (*_CONFIG, "generation_config.json"))
    path = folder / "generation_config.json"
    found = _object(path).get("eos_token_id") if path.is_file() else None
    if found is None:
        found = _config(path := folder / "config.json", name).eos_token_id
    ids = [one for one in (found if isinstance(found, list) else [found]) if one is not None]
    if wrong := [one for one in ids if type(one) is not int or one < 0]:
        raise ModelError(f"{path}: eos_token_id holds {wrong[0]!r}, which is no id. Correct it.")
    return ids


def build_on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """A model of shapes without storage: to count parameters, not to run."""
    bar_kernels()
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except _UNFIT as reason:
        raise ModelError(
            f"{config.model_type}: no causal language model can be made of its config.json ({type(reason).__name__}: {reason}). Correct its sizes, or choose a type that transformers knows."
        ) from reason


def bar_kernels() -> None:
    """From here on no library of this process can import `kernels`, which fetches compiled code from the hub.

    bitsandbytes asks for it when it is imported, by peft or transformers too, on CPUs that have AVX512-BF16. What was
    imported before stays with those who imported it.
    """
    sys.modules["kernels"] = cast("Any", None)
    # It would advise to install them.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def sanitised(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The config as it is, once nothing in it, at any depth, asks for code to be fetched or run."""
    for key, value in values.items():
        if key == "auto_map" and value:
            raise ModelError(
                f"{where}: 'auto_map' names code to run ({value}); wanted an architecture that transformers "
                "knows. Limbeck runs no code from model repositories: remove the key if the type is built in."
            )
        if key == "trust_remote_code" and value:
            raise ModelError(f"{where}: 'trust_remote_code' is {value!r}. Remove it.")
        if "implementation" in key:
            _refuse_code(key, value, where)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                sanitised(inner, f"{where}: {key}")
    return values


def _refuse_code(key: str, value: Any, where: str) -> None:
    """An implementation with a slash is the name of a repository of kernels."""
    names = value.values() if isinstance(value, dict) else [value]
    for name in names:
        if isinstance(name, dict):
            _refuse_code(key, name, where)
        elif isinstance(name, str) and "/" in name:
            raise ModelError(
                f"{where}: '{key}' is '{name}', a repository of code; wanted one built into transformers, such as 'sdpa' or 'eager'."
            )


def _object(path: Path) -> dict[str, Any]:
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise ModelError(f"{path}: found a {type(values).__name__}, wanted a JSON object.")
    return values


def _config(path: Path, name: str) -> PretrainedConfig:
    if not path.is_file():
        raise ModelError(f"{name}: no config.json in {path.parent}; wanted a model folder.")
    values = sanitised(_object(path), str(path))
    if published.is_published(values):
        return published.config(values, str(path))
    family = values.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise ModelError(
            f"{path}: model_type is {family!r}, which this transformers does not know. Update transformers, or choose another model."
        )
    try:
        made: PretrainedConfig = CONFIG_MAPPING[family].from_dict(_numbers(values))
        vocab = made.get_text_config().vocab_size
        if type(vocab) is not int or vocab < 1:
            raise ModelError(f"{path}: vocab_size is {vocab!r}; wanted how many ids there are.")
        return made
    except _UNFIT as reason:
        raise ModelError(f"{path}: no config of type '{family}' can be made: {reason}") from reason


def _numbers(value: Any) -> Any:
    """A config's values, in which transformers writes numbers that JSON has not as {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _numbers(inner) for key, inner in value.items()}
    return value


def _folder(name: str, revision: str | None, wanted: tuple[str, ...]) -> Path:
    """The local folder of a model, downloaded if need be."""
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ModelError(
                f"{name} is a folder, which has no revision '{revision}'. Leave revision out."
            )
        return path
    if path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"{name}: there is no such folder. Correct the path of the model.")
    try:
        commit = _commit(name, revision)
        return Path(
            snapshot_download(
                name, revision=commit, allow_patterns=list(wanted), ignore_patterns=_NOT_OURS
            )
        )
    except (OSError, ValueError) as reason:
        raise ModelError(
            f"{name}: neither a folder here nor a model that the hub gives (revision {revision or 'main'}): "
            f"{reason} Correct the name, log in with 'hf auth login' if it is gated, or download it to a folder."
        ) from reason


@functools.cache
def _commit(name: str, revision: str | None) -> str:
    """The commit that a name stands for, asked once a process: a branch may move between two downloads."""
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(_CONFIG))).name


def _downloaded(name: str, revision: str | None, wanted: tuple[str, ...]) -> Path | None:
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(wanted), local_files_only=True
        )
        return Path(found)
    except (OSError, ValueError):
        return None


def _complete(report: dict[str, Any], name: str, folder: Path) -> None:
    """Transformers only warns where it draws a parameter at random because no file holds it."""
    for kind in ("missing_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in report[kind])
        if keys:
            raise ModelError(
                f"{name}: {kind.replace('_', ' ')} when loading {folder}: {', '.join(keys[:5])}"
                f"{' and more' if len(keys) > 5 else ''}. Its weights are not those of its config."
            )
