"""One server that writes answers: asked in its shape, its answers cleared of the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from limbeck.sampling.answers import Answer, Asked, Drawing, Failure
from limbeck.sampling.secret import Secret
from limbeck.sampling.shapes import SHAPES
from limbeck.sampling.wire import LARGEST, Wire


@dataclass(frozen=True)
class Server:
    """Where to ask, and how. extra: fields of every body beside those that the shape sets. seeds: whether each request tells its own."""

    shape: str
    url: str
    model: str
    extra: dict[str, Any]
    max_tokens_as: str = "max_tokens"
    seeds: bool = False
    seconds: float = 60.0
    largest: int = LARGEST
    concurrency: int = 8


class Endpoint(Wire):
    """A server, ready to be asked."""

    def __init__(self, server: Server, drawing: Drawing, key: Secret) -> None:
        super().__init__(
            server.url,
            key,
            seconds=server.seconds,
            largest=server.largest,
            concurrency=server.concurrency,
        )
        self._server, self._drawing = server, drawing
        self._shape = SHAPES[server.shape]
        self._address = self._shape.address(server.url)

    async def ask(self, asked: Asked) -> Answer | Failure:
        """One request, once. Nothing that a server does raises."""
        headers = self._shape.headers(self._key)
        return await self.exchange(self._address, self._body(asked), headers, self._answer)

    def _body(self, asked: Asked) -> dict[str, Any]:
        body = self._shape.body(asked, self._server.model, self._drawing)
        body[self._server.max_tokens_as] = body.pop("max_tokens")
        if self._server.seeds:
            body["seed"] = asked.seed >> 32  # 31 bits: some servers hold it in an int32
        return body | self._server.extra

    def _answer(self, body: dict[str, Any]) -> Answer:
        found, hide = self._shape.read(body), self._key.hide
        return Answer(
            hide(found.text),
            hide(found.reasoning),
            hide(found.finish)[:40],
            found.tokens_in,
            found.tokens_out,
        )
