"""A server that scores given tokens: many requests at a time, each tried again until it is answered or hopeless."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field

from limbeck.errors import Interrupted, LimbeckError, ModelError
from limbeck.files import canonical, digest
from limbeck.sampling import scores, secret
from limbeck.sampling.answers import Failure
from limbeck.sampling.pace import back_off
from limbeck.sampling.place import Place
from limbeck.sampling.scores import PROTOCOLS, Scored
from limbeck.sampling.shapes import Unexpected
from limbeck.sampling.wire import Wire

Found = TypeVar("Found")
_LOOKS = 0.5


class Scores(Place):
    """A server that tells log-probabilities of given tokens, and how hard it is pressed."""

    protocol: Literal["vllm", "echo"] = Field(
        default="vllm",
        description="`vllm`: prompt_logprobs; `echo`: echo, logprobs and return_tokens_as_token_ids",
    )
    prompts: int = Field(default=4, gt=0, le=1000, description="documents of one request")
    concurrency: int = Field(default=8, gt=0, le=1000, description="requests on the way at a time")
    seconds: float = Field(default=300.0, gt=0, description="the longest wait for one request")
    tries: int = Field(default=6, gt=0, le=50)
    first_wait: float = Field(default=1.0, ge=0, le=60, description="seconds before the second try")
    longest_pause: float = Field(
        default=600.0, gt=0, description="a server that asks for a longer one ends the run"
    )
    largest: int = Field(
        default=512_000_000, gt=0, description="bytes of the longest answer that is read"
    )

    @property
    def fingerprint(self) -> str:
        """What stands for the served model where weights cannot be seen: its name, wherever it is served."""
        return digest(canonical(["served", self.model]))


class Scorer:
    """Asks one server, from any thread. Nothing is connected before it is asked, nor between two questions."""

    def __init__(self, place: Scores, where: str) -> None:
        place.check(f"{where}.server")
        self.place, self._where = place, where
        self._key = secret.from_environment(place.key)
        self._draw = random.Random(0)  # noqa: S311 (no secret)
        self.stop: Callable[[], bool] = lambda: False
        """Asked twice a second while a server is waited for: whether to give up."""

    def score(
        self, prompts: Sequence[Sequence[int]], k: int, *, temperature: float = 1.0
    ) -> list[Scored]:
        """The k likeliest ids at each token but the first of each prompt, in order."""
        return self._run(lambda wire: self._score(wire, prompts, k, temperature))

    def told(
        self, path: str, body: dict[str, Any] | None, read: Callable[[dict[str, Any]], Found]
    ) -> Found | Failure:
        """What the server says at a path of its own, such as /tokenize; a Failure where it has none."""
        return self._run(lambda wire: self._sent(wire, path, body, read))

    def fit(self, text: str) -> str:
        """What a server said, fit to stand in a message: short, and without the key."""
        return str(self._key.hide(text))[:80]

    def _run(self, work: Callable[[Wire], Coroutine[Any, Any, Found]]) -> Found:
        """Connections last as long as one call: between two of them there may be minutes, and another thread."""

        async def through() -> Found:
            place = self.place
            async with Wire(
                place.url,
                self._key,
                seconds=place.seconds,
                largest=place.largest,
                concurrency=place.concurrency,
            ) as wire:
                return await self._unless_stopped(asyncio.ensure_future(work(wire)))

        return asyncio.run(through())

    async def _unless_stopped(self, work: asyncio.Future[Found]) -> Found:
        """What the work comes to. Raises Interrupted where it was asked to stop: a server may be waited for an hour."""
        while not (await asyncio.wait([work], timeout=_LOOKS))[0]:
            if self.stop():
                work.cancel()
                await asyncio.wait([work])
                raise Interrupted(
                    f"Stopped while {self.place.url} was waited for. What is recorded or checkpointed by now stays; the same "
                    "command goes on."
                )
        return work.result()

    async def _score(
        self, wire: Wire, prompts: Sequence[Sequence[int]], k: int, temperature: float
    ) -> list[Scored]:
        each = self.place.prompts
        parts = [prompts[begin : begin + each] for begin in range(0, len(prompts), each)]
        found: dict[int, list[Scored]] = {}
        queue = iter(enumerate(parts))

        async def worker() -> None:
            for number, part in queue:
                found[number] = await self._part(wire, part, k, temperature)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.place.concurrency, len(parts))):
                    group.create_task(worker())
        except* LimbeckError as several:
            raise several.exceptions[0] from None
        return [one for number in range(len(parts)) for one in found[number]]

    async def _part(
        self, wire: Wire, prompts: Sequence[Sequence[int]], k: int, temperature: float
    ) -> list[Scored]:
        protocol = PROTOCOLS[self.place.protocol]
        body = scores.asked(self.place.model, prompts, protocol.body(k, temperature))
        found = await self._sent(
            wire, "/completions", body, lambda said: scores.read(protocol, said, prompts, k)
        )
        if isinstance(found, Failure):
            raise ModelError(
                f"{self._where}: {self.place.url} does not score {len(prompts)} prompts of up to "
                f"{max(map(len, prompts)):,} tokens, {k} ids each: {found.reason}. What is recorded or checkpointed by now "
                "stays; mend the server (vLLM: --max-logprobs, --max-model-len) or the recipe, and run the same command again."
            )
        return found

    async def _sent(
        self,
        wire: Wire,
        path: str,
        body: dict[str, Any] | None,
        read: Callable[[dict[str, Any]], Found],
    ) -> Found | Failure:
        """One request, in as many tries as are allowed."""
        headers = {"Authorization": f"Bearer {self._key.value}"} if self._key.value else {}
        found: Found | Failure = Failure("no try")
        for tried in range(1, self.place.tries + 1):
            found = await wire.exchange(self._address(path), body, headers, read)
            if not isinstance(found, Failure) or found.halts or not found.again:
                return found
            wait = found.seconds
            if wait is None:
                wait = back_off(tried, self.place.first_wait, self._draw)
            if wait > self.place.longest_pause or tried == self.place.tries:
                return found
            await asyncio.sleep(wait)
        return found

    def _address(self, path: str) -> str:
        """Under the url; what no version of an interface has, /tokenize, stands beside /v1."""
        base = self.place.url.rstrip("/")
        if path == "/tokenize":
            parts = urlsplit(base)
            base = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/v1')}"
        return base + path


def tokens_of(body: dict[str, Any]) -> list[int]:
    """The ids in an answer of /tokenize."""
    found = body.get("tokens")
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise Unexpected("no list of ids in 'tokens'")
    return found
