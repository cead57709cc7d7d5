"""The door of `limbeck generate`: plan, ask for what is missing, write what came, and tell how to go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from limbeck import files
from limbeck.errors import Interrupted, LimbeckError
from limbeck.folder import beside, locked
from limbeck.generating import filtering, judging, loaded, results
from limbeck.generating import journal as lines
from limbeck.generating.answering import answered
from limbeck.generating.journal import Journal, Told
from limbeck.generating.ledger import Ledger
from limbeck.generating.prompts import Plan, plan
from limbeck.generating.settings import Generation
from limbeck.progress import say
from limbeck.sampling.secret import Secret, from_environment
from limbeck.training.signals import Stop

JOURNAL = "journal.jsonl"


def generate(path: Path, overrides: Sequence[str], *, dry_run: bool) -> str:
    """Carries a generation out, or goes on with it; what it ends with, in words."""
    asked = loaded.load(path, overrides)
    filters = filtering.ready(asked, str(path))
    folder = Path(asked.output)
    if dry_run:
        told = lines.read(folder / JOURNAL)
        return estimate(asked, plan(asked), told)
    remote = asked.teacher.remote
    key = from_environment(remote.key if remote else None)
    if asked.judge and asked.judge.teacher.remote:
        from_environment(asked.judge.teacher.remote.key)  # told now, before anybody is paid
    stop = Stop().install()
    with locked(folder, beside(folder), "Wait for it, or give another output."):
        _only_ours(folder)
        found = plan(asked)
        told = lines.read(folder / JOURNAL)
        if told.torn:
            say(f"{JOURNAL}: its last line was torn ({told.torn:,} bytes) and is cut off.")
        return _carried_out(asked, found, told, key, stop, filters=filters)


def _only_ours(folder: Path) -> None:
    """Raises where a folder holds anything and no journal: it is somebody's, and would be written over."""
    if (folder / JOURNAL).exists():
        return
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            raise LimbeckError(
                f"output: {folder} holds {path.name}, and no {JOURNAL} of a generation: what is there would be written over. "
                "Give another output, or an empty folder."
            )


def _carried_out(
    asked: Generation,
    found: Plan,
    told: Told,
    key: Secret,
    stop: Callable[[], bool],
    *,
    filters: Sequence[tuple[str, filtering.Filter]],
) -> str:
    folder = Path(asked.output)
    # From here on the folder is not as it was committed.
    (folder / files.MANIFEST).unlink(missing_ok=True)
    files.sweep(folder)
    _say_begin(asked, found, told)
    ledger, ended = answered(asked, found, Journal(folder / JOURNAL, told, key), key, stop)
    here = results.rows(asked, found, told, () if ended == "stopped" else filters)
    if asked.judge and ended != "stopped":
        judging.judge(asked, here, folder, stop)
    if ended != "stopped":
        results.write(folder, asked, here, ledger, key)
    return _end(asked, here, ledger, ended)


def _say_begin(asked: Generation, found: Plan, told: Told) -> None:
    missing = [one for one in found.wanted if one.asked.id not in told.answers]
    double = f" ({found.double:,} stood there twice)" if found.double else ""
    say(
        f"generate {asked.name}: {found.prompts:,} prompts{double} x {asked.sampling.n}; "
        f"{len(found.wanted) - len(missing):,} answered before, {len(missing):,} to ask."
    )
    ours = {one.asked.id for one in found.wanted}
    if others := len(told.answers.keys() - ours):
        say(
            f"{others:,} answers in the journal are to other prompts or settings, and are left out."
        )


def _end(asked: Generation, here: results.Rows, ledger: Ledger, ended: str) -> str:
    """What a run ends with; raised where something is left to do."""
    left_out = len(here.filtered)
    answered = len(here.train) + len(here.held_out) + left_out
    spent = f"; spent {ledger.spent:.4f}" if asked.prices else ""
    if asked.spend:
        spent += f" of {asked.spend.cap:g}"
    counts = f"{answered:,} answered, {len(here.failed):,} failed, {here.left:,} left{spent}"
    if ended == "stopped":
        raise Interrupted(f"Stopped: {counts}. Every answer is kept; the same command goes on.")
    if ended == "capped":
        raise LimbeckError(
            f"spend.cap is reached: {counts}. The next request's worst case does not fit; nothing more was sent. "
            f"What there is stands in {asked.output}. Raise spend.cap and run the same command for the rest."
        )
    if ended:
        raise LimbeckError(
            f"{ended}. Nothing more was sent: {counts}. Mend it, and the same command goes on."
        )
    if not answered:
        first = here.failed[0]["reason"] if here.failed else "nothing was wanted"
        raise LimbeckError(f"No answer: {counts}. The first: {first}.")
    again = (
        f" Reasons are in {asked.output}/failed.jsonl; the same command tries again."
        if here.failed
        else ""
    )
    out = f", {left_out:,} left out by filters (filtered.jsonl)" if left_out else ""
    return f"{asked.output}: {counts}; {len(here.train):,} rows to train on, {len(here.held_out):,} held out{out}.{again}"


def estimate(asked: Generation, found: Plan, told: Told) -> str:
    """What is left to ask, in tokens and money, and whether the cap suffices. Asks nobody."""
    missing = [one for one in found.wanted if one.asked.id not in told.answers]
    cap = asked.spend.cap if asked.spend else None
    ledger = Ledger(asked.prices, cap, spent=told.spent + sum(told.open.values()))
    likely = sum(one.prompt.likely_tokens for one in missing)
    most = sum(one.prompt.most_tokens for one in missing)
    out = len(missing) * asked.sampling.max_tokens
    said = [
        f"{asked.name}: {found.prompts:,} prompts x {asked.sampling.n} = {len(found.wanted):,} answers "
        f"({found.double:,} prompts stood there twice)",
        f"answered before: {len(found.wanted) - len(missing):,}; to ask: {len(missing):,}",
        f"tokens: about {likely:,} in (at most {most:,}), at most {out:,} out",
    ]
    if asked.prices:
        about, worst = ledger.cost(likely, out), ledger.cost(most, out)
        said.append(
            f"cost: about {about:.4f} if every answer is as long as it may be, at most {worst:.4f}"
        )
        said.append(f"spent so far: {ledger.spent:.4f}")
        if cap is not None:
            left = cap - ledger.spent
            word = (
                "suffices" if worst <= left else "suffices by the estimate, not by the worst case"
                if about <= left else "does not suffice: the run will end before it is done"
            )  # fmt: skip
            said.append(f"spend.cap {cap:g}: {word}")
    if asked.judge:
        said.append(
            f"judge: a request, of {asked.judge.max_tokens:,} tokens out at most, for each answer that filters leave"
        )
    said.append("Nothing was asked.")
    return "\n".join(said)
