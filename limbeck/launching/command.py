"""The door to a cluster: reads its options, checks the recipe, and prints or submits the jobs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _launch() -> None:
    """Hands a recipe to a cluster's scheduler."""


def _says(text: str, *spelled: str) -> Any:
    return typer.Option(*spelled, help=text)


Word = str | None
Number = int | None
Several = list[str] | None
RecipePath = Annotated[Path, typer.Argument(help="A recipe, a YAML file.", metavar="RECIPE")]
Overrides = Annotated[
    Several, typer.Argument(help="Changes to the recipe: key.path=value", metavar="[KEY=VALUE]...")
]
Record = Annotated[bool, _says("Only the recording; with --train, both.", "--record")]
Train = Annotated[bool, _says("Only the training; with --record, both.", "--train")]
Submit = Annotated[bool, _says("Hands the jobs to sbatch; else they are printed.", "--submit")]
Ranks = Annotated[int, _says("Tasks that record together, one device each.")]
ArrayLimit = Annotated[Number, _says("How many of them run at one time.")]
Nodes = Annotated[int, _says("Nodes that train together.")]
Gpus = Annotated[
    Word, _says("GPUs of a node that trains, such as 4 or a100:4; a rank records on 1.")
]
Processes = Annotated[Number, _says("Ranks that train on a node; else one for each of its GPUs.")]
Cpus = Annotated[Number, _says("CPUs of a task: a rank that records, a node that trains.")]
Memory = Annotated[Word, _says("Memory of a node, such as 64G.")]
Time = Annotated[
    Word, _says("Time limit, such as 12:00:00; a job that meets it goes on in another turn.")
]
Partition = Annotated[Word, _says("The partition, or several with commas.")]
Account = Annotated[Word, _says("Whose account it is.")]
Qos = Annotated[Word, _says("The quality of service.")]
Constraint = Annotated[Word, _says("Features of the nodes, such as 'a100|h100'.")]
Name = Annotated[Word, _says("The job's name; else the recipe's.")]
Logs = Annotated[Word, _says("Folder of logs; else slurm/ in the run's folder.")]
After = Annotated[Number, _says("A job that must be done before.")]
SetUp = Annotated[
    Several, _says("A line of shell before the work, such as 'module load cuda'. Again for more.")
]
Export = Annotated[
    Several, _says("An environment variable that the job gets, by name. Again for more.")
]
Python = Annotated[str, _says("The Python of the job.")]
Seconds = Annotated[int, _says("How long before its limit a job is asked to save.")]
Requeues = Annotated[int, _says("How often a job that was asked to stop goes back into the queue.")]


@app.command()
def slurm(
    recipe: RecipePath,
    overrides: Overrides = None,
    *,
    record: Record = False,
    train: Train = False,
    submit: Submit = False,
    ranks: Ranks = 1,
    array_limit: ArrayLimit = None,
    nodes: Nodes = 1,
    gpus: Gpus = None,
    processes: Processes = None,
    cpus: Cpus = None,
    memory: Memory = None,
    time: Time = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    constraint: Constraint = None,
    name: Name = None,
    logs: Logs = None,
    after: After = None,
    set_up: SetUp = None,
    export: Export = None,
    python: Python = sys.executable,
    warning_seconds: Seconds = 120,
    requeues: Requeues = 20,
) -> None:
    """Prints the sbatch script of a recipe's recording or training, or a shell script that submits both."""
    given = dict(locals())  # before anything else is local: each option as it was given
    from limbeck import fitting, loading
    from limbeck.launching import slurm as jobs
    from limbeck.launching import submitting
    from limbeck.launching.settings import Settings, settings

    words = tuple(overrides or ())
    checked = fitting.check(loading.load(recipe, words))
    folder = Path(logs or f"{checked.runs}/{checked.name}/slurm").absolute()
    given |= {"name": name or checked.name, "logs": str(folder)}
    asked = settings({key: given[key] for key in Settings.model_fields})
    wanted = jobs.kinds(checked, record=record, train=train)
    if "train" in wanted:
        jobs.check_split(checked, asked)
    made = jobs.scripts(jobs.Work(recipe, words, Path.cwd()), asked, wanted)
    if not submit:
        sys.stdout.write(jobs.printed(made, asked.logs))
        return
    for kind, number in submitting.submit(made, folder):
        sys.stdout.write(f"{kind}: job {number}, logs in {folder}\n")
