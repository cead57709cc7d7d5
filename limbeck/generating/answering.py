"""Asks whoever a teacher is for all that a journal lacks, with what was paid before and what may yet be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from limbeck.generating import journal as lines
from limbeck.generating.journal import Journal
from limbeck.generating.ledger import Ledger
from limbeck.generating.prompts import Plan, Wanted
from limbeck.generating.settings import Generation
from limbeck.progress import Progress, progress, say
from limbeck.sampling.secret import Secret


def answered(
    asked: Generation,
    found: Plan,
    journal: Journal,
    key: Secret,
    stop: Callable[[], bool],
    *,
    title: str = "generate",
) -> tuple[Ledger, str]:
    """The ledger after all is asked that may be, and why some was left, or ''. The journal is closed, whatever happens."""
    missing = [one for one in found.wanted if one.asked.id not in journal.told.answers]
    try:
        ledger, ended = _ledger(asked, found, journal), ""
        if missing:
            done = len(found.wanted) - len(missing)
            with progress(title, len(found.wanted), done=done) as bar:
                ended = _asked(asked, missing, (journal, ledger, key), bar, stop)
        return ledger, ended
    finally:
        journal.close()


def _asked(
    asked: Generation,
    missing: Sequence[Wanted],
    books: tuple[Journal, Ledger, Secret],
    bar: Progress,
    stop: Callable[[], bool],
) -> str:
    """Asks whoever the teacher is. Why some were left, or ''."""
    journal, ledger, key = books
    if asked.teacher.local:
        from limbeck.generating.local import answer_all

        return answer_all(asked, missing, journal, bar, stop)
    from limbeck.generating.asking import Asking, Desk
    from limbeck.sampling.http import Endpoint, Server

    remote, limits = asked.teacher.remote, asked.limits
    assert remote
    server = Server(
        asked.teacher.shape,
        remote.url,
        remote.model,
        remote.body,
        remote.max_tokens_as,
        remote.seeds,
        limits.seconds_per_request,
        limits.bytes_per_answer,
        limits.concurrency,
    )

    async def run() -> str:
        async with Endpoint(server, asked.sampling.drawing, key) as endpoint:
            desk = Desk(journal, ledger, limits, asked.sampling.max_tokens, bar, stop, asked.seed)
            asking = Asking(endpoint, desk)
            await asking.all(missing)
            return asking.ended

    return asyncio.run(run())


def _ledger(asked: Generation, found: Plan, journal: Journal) -> Ledger:
    """The ledger of all runs so far, and what they taught. What was on the way when a run was killed may have been paid for, and counts."""
    open_ = dict(journal.told.open)
    if open_:
        reason = "on the way when the process ended"
        journal.put_now(*(lines.lost(name, cost, reason) for name, cost in open_.items()))
        say(f"{len(open_):,} requests were on the way when the last run ended; they count as paid.")
    cap = asked.spend.cap if asked.spend else None
    ledger = Ledger(asked.prices, cap, spent=journal.told.spent)
    for one in found.wanted:
        if answer := journal.told.answers.get(one.asked.id):
            ledger.learn(answer, one.prompt.most_tokens, asked.sampling.max_tokens)
    return ledger
