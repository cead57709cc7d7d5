"""The doors: every command reads its arguments here and imports heavy rooms only when it needs them."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from limbeck import bringing, evaluating, names, progress
from limbeck.bringing import own_work
from limbeck.doctor import command as examining
from limbeck.errors import STOPPED, Interrupted, LimbeckError, RecipeError
from limbeck.files import FULL
from limbeck.launching import command as launching

_OF_THE_USER = (
    *(errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EEXIST),
    *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
)
"""Of an OSError: a path, or what may be done there, is the user's to mend."""

app = typer.Typer(
    name="limbeck",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(launching.app, name="launch")

RecipePath = Annotated[Path, typer.Argument(help="A recipe, a YAML file.", metavar="RECIPE")]
RunPath = Annotated[
    Path, typer.Argument(help="A run's folder, such as runs/quickstart.", metavar="RUN")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe: key.path=value", metavar="[KEY=VALUE]..."),
]


@app.callback()
def everywhere(
    log_format: Annotated[
        Literal["text", "json"] | None,
        typer.Option(help="Of what is said on the way: text, or one JSON object a line."),
    ] = None,
) -> None:
    """Distils large language models. One recipe is one run: limbeck train RECIPE.yaml"""
    if log_format is not None:
        os.environ[progress.FORMAT] = log_format


@app.command("list")
def list_(
    family: Annotated[
        str | None, typer.Argument(help="One of: " + ", ".join(names.FAMILIES))
    ] = None,
) -> None:
    """Lists the parts that a recipe can name, with one line for each."""
    if family and family not in names.FAMILIES:
        raise RecipeError(f"No family '{family}'.{names.suggestion(family, list(names.FAMILIES))}")
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in [family] if family else names.FAMILIES:
        table.add_row(f"[bold]{name}[/bold]")
        for member, line in names.members(name).items():
            table.add_row(f"  {member}", line)
    Console().print(table)


@app.command()
def show(
    recipe: RecipePath,
    overrides: Overrides = None,
    *,
    layers: Annotated[
        bool, typer.Option("--layers", help="How alike both models' blocks are. Loads the models.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(help="With --layers: the file to write all of it to.")
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            help="How many examples to print, with what counts. Prepares the text.", min=0
        ),
    ] = 0,
) -> None:
    """Prints what a recipe would do: parameters, memory, tokens, disk. Loads no weights, but with --layers."""
    from limbeck import choosing, fitting, loading, showing

    if json is not None and not layers:
        raise RecipeError("show: --json holds what --layers tells; give both.")
    asked = choosing.known(fitting.check(loading.load(recipe, overrides or ())))
    showing.show(asked)
    if layers:
        from limbeck import comparing

        comparing.show(asked, json)
    if sample:
        from limbeck import examples

        examples.show(asked, sample)


app.command()(examining.doctor)
app.command()(bringing.fetch)
app.command()(bringing.mirror)
app.command()(bringing.convert)


@app.command()
def record(
    recipe: RecipePath,
    overrides: Overrides = None,
    rank: Annotated[int, typer.Option(help="This process among --world.", min=0)] = 0,
    world: Annotated[int, typer.Option(help="How many processes record together.", min=1)] = 1,
) -> None:
    """Records what the teacher says of a recipe's text into its cache."""
    from limbeck import auditing, fitting, loading, run

    own_work()
    asked = fitting.check(loading.load(recipe, overrides or ()))
    with auditing.kept("record", Path(asked.runs) / asked.name, asked, overrides or ()):
        run.record(asked, rank=rank, world=world)


@app.command()
def generate(
    recipe: RecipePath,
    overrides: Overrides = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Says what it would ask and cost. Asks nobody.")
    ] = False,
) -> None:
    """Has a teacher that can only speak write text for a student. Goes on where it stopped."""
    from limbeck.generating import command

    own_work()
    said = command.generate(recipe, overrides or (), dry_run=dry_run)
    Console().print(said, soft_wrap=True, markup=False, highlight=False)


@app.command()
def train(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Carries a recipe out: record, train, control, export, evaluate, report. Goes on where it stopped."""
    from limbeck import auditing, fitting, loading, run

    own_work()
    asked = fitting.check(loading.load(recipe, overrides or ()))
    with auditing.kept("train", Path(asked.runs) / asked.name, asked, overrides or ()):
        run.carry_out(asked)


@app.command()
def prepare(
    recipe: RecipePath,
    overrides: Overrides = None,
    *,
    workers: Annotated[
        int | None, typer.Option(help="Processes; else one for each usable core.", min=1)
    ] = None,
) -> None:
    """Tokenises every text of a recipe, for train to find. Goes on where it stopped."""
    from limbeck import fitting, loading, preparing

    own_work()
    preparing.prepare(fitting.check(loading.load(recipe, overrides or ())), workers)


@app.command()
def export(run: RunPath) -> None:
    """Writes the trained student (and its control) as Hugging Face folders, reloaded and compared."""
    from limbeck import again, auditing

    with auditing.kept("export", run):
        again.export_again(run)


app.command()(bringing.push)
app.command()(evaluating.evaluate)


@app.command()
def report(
    run: RunPath,
    *,
    serve: Annotated[
        bool, typer.Option("--serve", help="Shows it to a browser here, while the run goes on.")
    ] = False,
    port: Annotated[int, typer.Option(help="With --serve; 0 for any.", min=0, max=65535)] = 8123,
) -> None:
    """Writes report.html and report.md from what a run's folder holds."""
    if serve:
        from limbeck.report import serving

        with serving.server(run, port) as here:
            address = f"http://127.0.0.1:{here.server_address[1]}/"
            Console().print(f"Report of {escape(str(run))}: {address} (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                here.serve_forever()
        return
    from limbeck.report import render

    Console().print(f"Report: {render.write(run)}", soft_wrap=True, markup=False)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs' folders; the first is what others stand beside.")
    ],
    *,
    html: Annotated[Path | None, typer.Option(help="A page to write, with charts.")] = None,
    json: Annotated[Path | None, typer.Option(help="A file to write all of it to.")] = None,
) -> None:
    """Puts runs beside each other: figures with intervals, differences on the same rows, seeds as one."""
    from limbeck import contrasting

    for line in contrasting.show(runs, html, json):
        Console().print(line, soft_wrap=True, highlight=False)


@app.command()
def verify(run: RunPath) -> None:
    """Checks every manifest under a run (or a cache) again, byte by byte."""
    from limbeck import verifying

    Console().print(verifying.verify(run), soft_wrap=True, markup=False)


@app.command()
def probe(
    model: Annotated[
        str, typer.Argument(help="A model's folder, or its name on the hub.", metavar="MODEL")
    ],
    *,
    pairs: Annotated[int, typer.Option(help="Words and numbers in each dictionary.")] = 10,
    prompts: Annotated[int, typer.Option(help="How many questions to ask.")] = 200,
    heads: Annotated[
        bool, typer.Option("--heads/--layers-only", help="Whether each head is silenced as well.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Chooses the dictionaries.", min=0, max=2**32 - 1)] = 0,
    json: Annotated[Path | None, typer.Option(help="The file to write all of it to.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 (faster where a CPU has it) or auto.")
    ] = "float32",
) -> None:
    """Ranks a model's layers and heads by what it can no longer look up without their attention."""
    from limbeck import probing

    asked = probing.Asked(model, pairs, prompts, seed, heads, device, dtype)
    probing.show(asked, json)


def main() -> None:
    """The command line. Errors of the user end in one message, not in a traceback."""
    # Before PyTorch is imported: threads that wait by spinning take the cores from whatever else runs here, and
    # from one another's work; on two busy cores a row function took seven times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except Interrupted as reason:
        _told(reason)
        sys.exit(STOPPED)
    except LimbeckError as reason:
        _told(reason)
        sys.exit(2)
    except OSError as reason:
        place = f"{reason.filename}: " if reason.filename else ""
        if reason.errno in FULL:
            cure = "What is whole is kept: make room, and run the same again."
        elif reason.errno in _OF_THE_USER and place:
            cure = "Correct the path, or who may read and write there, and run the same again."
        else:
            raise
        _told(f"{place}{reason.strerror}. {cure}")
        sys.exit(2)


def _told(message: object) -> None:
    if progress.in_json():
        sys.stderr.write(progress.as_json("error", str(message)))
        return
    # Escaped: a message may hold brackets, such as limbeck[lora], which are no markup.
    text = f"[red]limbeck:[/red] {escape(str(message))}"
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)
