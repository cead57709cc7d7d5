"""Under which licence a model or a text stands, as far as its own folder says, and what that allows. No advice of a lawyer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from limbeck import files
from limbeck.errors import LimbeckError

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(?::[\w.-]+)?(?:@[\w.-]+)?", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9 .+_-]{0,80}")
_LONGEST = 100_000  # characters of a card that are looked at
_FREE = "use, change and pass on, also for money"
_LLAMA = "the licence goes along; 'Built with Llama' is shown; above 700 million users a month Meta is asked first"
ALLOWS: dict[str, str] = {
    "apache-2.0": f"{_FREE}; its notices go along, and what was changed is said",
    "mit": f"{_FREE}; its notice goes along",
    "bsd-2-clause": f"{_FREE}; its notice goes along",
    "bsd-3-clause": f"{_FREE}; its notice goes along, its authors are not named as supporters",
    "isc": f"{_FREE}; its notice goes along",
    "psf-2.0": f"{_FREE}; its notice goes along, and what was changed is said",
    "cc0-1.0": "anything",
    "unlicense": "anything",
    "cc-by-3.0": f"{_FREE}; its authors are named",
    "cc-by-4.0": f"{_FREE}; its authors are named",
    "cc-by-sa-3.0": f"{_FREE}; its authors are named, and what is adapted of it is passed on under the same licence",
    "cc-by-sa-4.0": f"{_FREE}; its authors are named, and what is adapted of it is passed on under the same licence",
    "cc-by-nc-4.0": "no use for money; its authors are named",
    "cc-by-nc-sa-4.0": "no use for money; its authors are named, and what is adapted of it is passed on under the same licence",
    "cc-by-nd-4.0": "no adaptation is passed on; its authors are named",
    "odc-by": f"{_FREE}, of the collection; its makers are named; what it holds may have licences of its own",
    "gpl-3.0": "use and change; who passes on what is made of it does so under the same licence, with sources",
    "agpl-3.0": "use and change; who passes on or serves what is made of it does so under the same licence, with sources",
    "openrail": "use and change, also for money, but not for the uses that it forbids, which goes along",
    "bigscience-openrail-m": "use and change, also for money, but not for the uses that it forbids, which goes along",
    "gemma": "its terms go along with every model that was trained on its outputs, distilled ones by name, and so do the uses that they forbid",
    "llama2": f"other language models may not be improved with it or with what it writes; {_LLAMA}",
    "llama3": f"other language models may not be improved with it or with what it writes; models made of it have names that begin with 'Llama 3'; {_LLAMA}",
    "llama3.1": f"models made of it or trained on what it writes have names that begin with 'Llama'; {_LLAMA}",
    "llama3.2": f"models made of it or trained on what it writes have names that begin with 'Llama'; {_LLAMA}",
    "llama3.3": f"models made of it or trained on what it writes have names that begin with 'Llama'; {_LLAMA}",
}
"""{licence as the Hub spells it: what it allows and asks, in a sentence}"""
HUB = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m
    bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3
    llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql
    unknown unlicense wtfpl zlib
    """.split()  # noqa: SIM905 (shorter than a list of strings)
)
"""The names of licences that the Hub takes in a card; any other is `other` there, with its name beside."""
UNKNOWN = "not known here: read it before you pass anything on"


@dataclass(frozen=True)
class Origin:
    """Something that a student was made of. role: what it was here.

    base: of a folder of this machine, the model on the Hub that its card names as its base. writer: of text that a model
    wrote, which one. spent: what that cost.
    """

    role: str
    name: str
    licence: str | None = None
    base: str | None = None
    writer: str | None = None
    spent: float | None = None

    @property
    def allows(self) -> str:
        """What its licence allows."""
        return ALLOWS.get(self.licence or "", UNKNOWN)

    @property
    def on_hub(self) -> str | None:
        """Its name on the Hub; of a folder of this machine that of its base, where its card names one."""
        return self.name if is_on_hub(self.name) else self.base


def is_on_hub(name: str) -> bool:
    """Whether a name is that of a repository on the Hub."""
    return bool(_NAME.fullmatch(name)) and not Path(name).exists()


def of_model(role: str, name: str, revision: str | None = None) -> Origin:
    """A model, with the licence that the card in its folder names; no network is asked."""
    folder = _folder(name, revision, "model")
    base = _card(folder).get("base_model")
    told = isinstance(base, str) and is_on_hub(base)
    return Origin(role, name, _told(folder), base=base if told else None)


def of_text(role: str, options: dict[str, Any]) -> Origin | None:
    """A text as a source's options name it: its licence, and of generated text who wrote it and what that cost.

    None where the options name no path.
    """
    path = options.get("path")
    if not isinstance(path, str):
        return None
    if is_on_hub(path):
        name, _, revision = path.partition("@")
        repository = name.partition(":")[0]
        return Origin(role, repository, _told(_folder(repository, revision or None, "dataset")))
    about = _about(Path(path))
    written = about.get("kind") == "generated text"
    return Origin(
        role,
        path,
        _told(Path(path)),
        writer=str(about["teacher"]) if written else None,
        spent=float(about["spent"]) if written and about.get("spent") else None,
    )


def _folder(name: str, revision: str | None, kind: str) -> Path | None:
    """Where a model or a data set lies on this machine, if it does."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                repo_type=kind,
                allow_patterns=["README.md"],
                local_files_only=True,
            )
        )
    except (OSError, ValueError):
        return None


def _told(folder: Path | None) -> str | None:
    """The licence that a folder's card names in its metadata, or its manifest."""
    data = _card(folder)
    told = data.get("license")
    if told == "other":  # the Hub's way to say that its list lacks it
        told = data.get("license_name", told)
    if told is None and folder is not None:
        told = _about(folder).get("licence")
    found = told.strip().lower() if isinstance(told, str) else ""
    return found if _LICENCE.fullmatch(found) else None


def _card(folder: Path | None) -> dict[str, Any]:
    """The metadata of the card in a folder, which anybody may have written; nothing where there is none that can be read."""
    if folder is None or not (folder / "README.md").is_file():
        return {}
    try:
        with (folder / "README.md").open(encoding="utf-8") as stream:
            block = REGEX_YAML_BLOCK.search(stream.read(_LONGEST))
        found = yaml.safe_load(block[2]) if block else None
    except (ValueError, OSError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _about(folder: Path) -> dict[str, Any]:
    """What the manifest in a folder says of it; nothing where there is none that can be read."""
    try:
        found = files.read_json(folder / files.MANIFEST)
    except (OSError, LimbeckError):
        return {}
    about = found.get("about") if isinstance(found, dict) else None
    return about if isinstance(about, dict) else {}
