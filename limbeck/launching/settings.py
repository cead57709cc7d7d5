"""What Slurm is asked for, each value checked, so that none can break out of the script and none is a secret."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, ValidationError, field_validator

from limbeck.errors import LimbeckError
from limbeck.spelling import Frozen

_WORD = r"^[A-Za-z0-9][A-Za-z0-9_.@+-]*$"
# HF_TOKEN, AWS_SECRET_ACCESS_KEY, DBPASSWORD; but neither TOKENIZERS_PARALLELISM nor MONKEY.
_NAME = (
    r"(?:[A-Za-z0-9]+_)*(?:(?:API|ACCESS|AUTH|PRIVATE|SECRET)?KEYS?"
    r"|[A-Za-z0-9]*(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?))(?:_[A-Za-z0-9_]*)?"
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
# Such a name that is assigned to; an option of that name with a value; a password in an address; a known kind of key.
_SECRET_LINE = re.compile(
    rf"\b{_NAME}\s*\+?=|(?<!\S)--?(?:[a-z]+-)*(?:key|token|secret|password)[ =]\S|://[^/\s:@]+:[^/\s@]+@"
    r"|\b(?:hf_[A-Za-z0-9]{20}|sk-[A-Za-z0-9_-]{16}|gh[pousr]_[A-Za-z0-9]{20}|AKIA[0-9A-Z]{16})",
    re.IGNORECASE,
)
CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


class Settings(Frozen):
    """What Slurm is asked for. Each description is what a wrong value is told was wanted."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits and any of . _ -"
    )
    logs: str = Field(
        pattern=r'^/[^"\\\x00-\x1f\x7f]*$',
        description="an absolute path without double quotes, backslashes and line ends",
    )
    python: str = Field(
        pattern=r"^(/[^\x00-\x1f\x7f]*|[A-Za-z0-9_][A-Za-z0-9_.+-]*)$",
        description="an absolute path, or the bare name of a program",
    )
    partition: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,-]*$",
        description="a partition's name, or several with commas",
    )
    account: str | None = Field(default=None, pattern=_WORD, description="an account's name")
    qos: str | None = Field(default=None, pattern=_WORD, description="the name of a QOS")
    constraint: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9\[(][A-Za-z0-9_.:=&|,*()\[\]-]*$",
        description="features such as 'a100|h100', without spaces",
    )
    time: str | None = Field(
        default=None,
        pattern=r"^([0-9]+(:[0-9]{1,2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2})$",
        description="minutes, hours:minutes:seconds or days-hours:minutes:seconds",
    )
    memory: str | None = Field(
        default=None, pattern=r"^[0-9]+[KMGT]?$", description="a size such as 64G"
    )
    ranks: int = Field(default=1, ge=1, description="1 or more")
    array_limit: int | None = Field(default=None, ge=1, description="1 or more")
    nodes: int = Field(default=1, ge=1, description="1 or more")
    gpus: str | None = Field(
        default=None,
        pattern=r"^([A-Za-z][A-Za-z0-9_.-]*:)?[1-9][0-9]*$",
        description="a number, or kind:number such as a100:4",
    )
    processes: int | None = Field(default=None, ge=1, description="1 or more")
    cpus: int | None = Field(default=None, ge=1, description="1 or more")
    warning_seconds: int = Field(default=120, ge=1, le=65_535, description="1 to 65535 seconds")
    requeues: int = Field(default=20, ge=0, description="0 or more")
    after: int | None = Field(default=None, ge=1, description="the number of a job")
    export: tuple[str, ...] = Field(default=(), description="names of environment variables")
    set_up: tuple[str, ...] = Field(default=(), description="lines of shell")

    @field_validator("export")
    @classmethod
    def _names_only(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                # Without the value: it may be a secret that was given in the wrong place.
                raise ValueError(
                    f"found '{name.partition('=')[0]}' with more; wanted the name alone."
                )
            if _SECRET_NAME.fullmatch(name):
                raise ValueError(
                    f"{name} looks like a secret, and Slurm keeps what is exported in its own files. Keep it in a file "
                    "that only you can read, which a line of --set-up reads, such as 'source ~/.keys'."
                )
        return names

    @field_validator("set_up")
    @classmethod
    def _single_lines(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for number, line in enumerate(lines, start=1):
            if CONTROL.search(line.replace("\t", " ")) or line.endswith("\\"):
                raise ValueError(f"line {number} does not end where it ends; give one line each.")
            if re.match(r"\s*#\s*SBATCH", line):
                raise ValueError(
                    f"line {number} is for sbatch, which reads none after the first command; there are options."
                )
            if _SECRET_LINE.search(line):
                # The line is not repeated: what it assigns would be printed.
                raise ValueError(
                    f"line {number} looks as if it assigned a secret, which would stand in the script. Keep it in a "
                    "file that only you can read, and give a line that reads it, such as 'source ~/.keys'."
                )
        return lines

    @property
    def processes_per_node(self) -> int:
        """Ranks that train on a node: as asked, or one for each of its GPUs."""
        return self.processes or int((self.gpus or "1").rpartition(":")[2])


def settings(given: dict[str, Any]) -> Settings:
    """Settings of plain values; those that are None are not given."""
    try:
        return Settings.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as reason:
        told = [_told(dict(error)) for error in reason.errors()]
    # Outside the handler: what pydantic found may be a secret, and belongs in no traceback.
    raise LimbeckError("\n".join(told))


def _told(error: dict[str, Any]) -> str:
    name = str(error["loc"][0])
    option = f"launch slurm: --{name.replace('_', '-')}"
    if error["type"] == "value_error":
        return f"{option}: {error['msg'].removeprefix('Value error, ')}"
    wanted = Settings.model_fields[name].description
    return f"{option}: found {error['input']!r}; wanted {wanted}."
