"""Doors through which things come in and go out: `fetch` what is known by name, `mirror` what lies on the Hub, `convert` older caches, `push` students."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from limbeck import names
from limbeck.errors import RecipeError


def own_work() -> None:
    """What a run writes is for its owner alone."""
    os.umask(0o077)


def fetch(
    name: Annotated[str, typer.Argument(help="smollm2, python-docs, fineweb-edu or openhermes")],
    to: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    *,
    subset: Annotated[
        str | None, typer.Option(help="Of fineweb-edu, such as CC-MAIN-2014-49.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Rows of a shard.", min=1)] = 50_000,
    shards: Annotated[int | None, typer.Option(help="At most so many; else all.", min=1)] = None,
    score: Annotated[int | None, typer.Option(help="The least int_score of fineweb-edu.")] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the rows to judge by.", min=0, max=0.5)
    ] = 0.005,
    source: Annotated[
        str | None, typer.Option(help="A folder of its rows, in the place of the Hub.")
    ] = None,
    compress: Annotated[bool, typer.Option(help="Shards as .jsonl.gz.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Says how much lies there.")] = False,
) -> None:
    """Fetches a teacher, or a corpus: from this machine, or streamed from the Hub in shards; goes on where it stopped."""
    from limbeck import collecting, fetching

    known = [*fetching.FETCHABLE, *collecting.CORPORA]
    if name not in known:
        raise RecipeError(f"Nothing called '{name}' to fetch.{names.suggestion(name, known)}")
    wanted = collecting.Wanted(
        name, subset, samples, shards, score, held_out, compressed=compress, place=source
    )
    if name in collecting.CORPORA:
        if dry_run:
            size = collecting.size(wanted)
            Console().print(
                f"{name}: {size or 0:,} bytes at the source; nothing was fetched.", markup=False
            )
            return
        own_work()
        folder = collecting.collect(wanted, to or Path("corpora") / name)
    else:
        if dry_run or wanted != collecting.Wanted(name):
            raise RecipeError(f"fetch {name}: takes --to alone; the other options are of corpora.")
        folder = fetching.FETCHABLE[name].fetch(to or Path(fetching.FETCHABLE[name].folder))
    Console().print(f"{name} is in {folder}", soft_wrap=True, markup=False)


def mirror(
    name: Annotated[str, typer.Argument(help="owner/name on the Hugging Face Hub")],
    to: Annotated[Path | None, typer.Option(help="The folder to write; mirrors/NAME.")] = None,
    *,
    kind: Annotated[Literal["dataset", "model"], typer.Option(help="What it is.")] = "dataset",
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Such as '*.parquet'. Again for more.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="What of these not.")] = None,
    workers: Annotated[int, typer.Option(help="Files at a time.", min=1, max=64)] = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Says how much lies there.")] = False,
) -> None:
    """Mirrors a repository of the Hub, or what of it matches; goes on where it stopped, and checks every file."""
    from limbeck import mirroring

    wanted = mirroring.Repository(name, kind, revision, tuple(include or ()), tuple(exclude or ()))
    console = Console()
    if dry_run:
        there = mirroring.listed(wanted)
        told = f"{name}@{there.commit}: {len(there.files):,} files, {there.size:,} bytes; nothing was fetched."
        console.print(told, markup=False, soft_wrap=True)
        return
    folder = mirroring.mirror(wanted, to or Path("mirrors") / name, workers=workers)
    console.print(f"{name} is in {folder}", soft_wrap=True, markup=False)


def convert(
    old: Annotated[Path, typer.Argument(help="A cache of version 1, or of another tool.")],
    new: Annotated[Path, typer.Argument(help="The folder to write.")],
    *,
    origin: Annotated[
        str | None, typer.Option("--from", help="The other tool: distillkit or axolotl.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="With --from: the tokenizer that its ids are of.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="With --from: the teacher's name, for people.")
    ] = None,
    values: Annotated[
        str | None, typer.Option(help="code8, float16, float32 or float64; else as recorded.")
    ] = None,
) -> None:
    """Writes an older cache, or one of DistillKit or axolotl, as a cache of this version."""
    from limbeck.converting import command

    own_work()
    said = command.convert(
        old, new, origin=origin, tokenizer=tokenizer, teacher=teacher, values=values
    )
    Console().print(said, soft_wrap=True, markup=False)


def push(
    what: Annotated[
        Path, typer.Argument(help="A run's folder, or an exported one.", metavar="RUN|EXPORT")
    ],
    name: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub.")],
    *,
    control: Annotated[
        bool, typer.Option("--control", help="The control, not the student.")
    ] = False,
    branch: Annotated[
        str | None, typer.Option(help="Of the repository; else its main one.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is for its owner alone.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also over a model that limbeck did not push.")
    ] = False,
) -> None:
    """Uploads an exported student with its card to the Hub, in one commit. Log in with 'hf auth login', or set HF_TOKEN."""
    from limbeck import auditing, pushing

    target = pushing.Target(name, branch, private=private, replace=replace)
    places = (what, what.parent, what.parent.parent)
    run = next((one for one in places[::-1] if (one / "recipe.yaml").is_file()), None)
    with auditing.kept("push", run) if run else contextlib.nullcontext():
        address = pushing.push(what, target, control=control)
    Console().print(f"Pushed: {address}", soft_wrap=True, markup=False, highlight=False)
