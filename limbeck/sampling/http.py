"""One server, asked over HTTP: the key goes to its origin alone, and whatever comes back is data."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx

from limbeck.errors import Damaged
from limbeck.files import parse_json
from limbeck.sampling.address import origin
from limbeck.sampling.answers import Answer, Asked, Drawing, Failure
from limbeck.sampling.pace import retry_after
from limbeck.sampling.secret import Secret
from limbeck.sampling.shapes import SHAPES, Unexpected

LARGEST = 16_000_000
"""Bytes of the longest body that is read."""
_CONNECTING = 15.0
_AGAIN = (408, 409, 425, 429)
_HOPELESS = (401, 402, 403, 404)
# Before a byte of the request is gone: nobody can have been paid.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


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


class Endpoint:
    """A server, ready to be asked; a context, which closes its connections."""

    def __init__(self, server: Server, drawing: Drawing, key: Secret) -> None:
        for name in ("httpx2", "httpcore2"):  # at lower levels they print headers and addresses
            logging.getLogger(name).setLevel(logging.WARNING)
        self._server, self._drawing, self._key = server, drawing, key
        self._shape = SHAPES[server.shape]
        self._address = self._shape.address(server.url)
        most = server.concurrency
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            # A proxy of the environment would read what goes over plain HTTP.
            trust_env=urlsplit(server.url).scheme == "https",
            timeout=httpx.Timeout(server.seconds, connect=min(_CONNECTING, server.seconds)),
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def ask(self, asked: Asked) -> Answer | Failure:
        """One request, once. Nothing that a server does raises."""
        seconds = self._server.seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(asked)
        except _UNSENT as reason:
            return self._failed(f"no connection ({_told(reason)})", again=True)
        except (TimeoutError, httpx.TimeoutException):
            return self._failed(f"no answer within {seconds:g} seconds", again=True, paid=True)
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as reason:
            return self._failed(f"the connection broke ({_told(reason)})", again=True, paid=True)

    def _content(self, asked: Asked) -> bytes:
        body = self._shape.body(asked, self._server.model, self._drawing)
        body[self._server.max_tokens_as] = body.pop("max_tokens")
        if self._server.seeds:
            body["seed"] = asked.seed >> 32  # 31 bits: some servers hold it in an int32
        return json.dumps(body | self._server.extra, ensure_ascii=False).encode()

    async def _exchange(self, asked: Asked) -> Answer | Failure:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            # Unpacked nowhere, so that the limit on bytes holds.
            "Accept-Encoding": "identity",
            **self._shape.headers(self._key),
        }
        content = self._content(asked)
        async with self._client.stream(
            "POST", self._address, content=content, headers=headers
        ) as response:
            if 300 <= response.status_code < 400:
                there = _target(self._address, response.headers.get("location", ""))
                return self._failed(
                    f"{origin(self._address)} redirects to {there}, and no redirect is followed, since the key is for "
                    "one origin. Correct teacher.url",
                    halts=True,
                )
            raw = bytearray()
            async for piece in response.aiter_raw():
                raw += piece
                if len(raw) > self._server.largest:
                    paid = response.status_code < 300
                    return self._failed(
                        f"a body of more than {self._server.largest:,} bytes", again=True, paid=paid
                    )
            if response.status_code >= 300:
                return self._refused(response, bytes(raw))
            return self._read(response, bytes(raw))

    def _refused(self, response: httpx.Response, raw: bytes) -> Failure:
        status = response.status_code
        said = " ".join(raw[:2000].decode(errors="replace").split())
        seconds = retry_after(response.headers.get("retry-after"))
        return self._failed(
            f"status {status}: {said}",
            again=status in _AGAIN or status >= 500,
            halts=status in _HOPELESS,
            seconds=seconds if status in (429, 503) else None,
        )

    def _read(self, response: httpx.Response, raw: bytes) -> Answer | Failure:
        """The answer in a body; where there is none, it has been paid for all the same."""
        if response.headers.get("content-encoding", "identity") != "identity":
            return self._failed("a packed body, which was not asked for", again=True, paid=True)
        kind = response.headers.get("content-type", "").partition(";")[0].strip()
        try:
            body = parse_json(raw, "the body")
            if not isinstance(body, dict):
                raise Unexpected(f"JSON of a {type(body).__name__}")
            found = self._shape.read(body)
        except (Damaged, Unexpected) as reason:
            told = f"status {response.status_code} with {kind or 'something'} that is no answer: {reason}"
            return self._failed(told, again=True, paid=True)
        hide = self._key.hide
        return Answer(
            hide(found.text),
            hide(found.reasoning),
            hide(found.finish)[:40],
            found.tokens_in,
            found.tokens_out,
        )

    def _failed(
        self,
        reason: str,
        *,
        again: bool = False,
        paid: bool = False,
        halts: bool = False,
        seconds: float | None = None,
    ) -> Failure:
        """A Failure whose reason is fit to be written down. Hidden first: a cut could leave half of the key."""
        fit = self._key.hide(reason).encode(errors="replace").decode()
        return Failure(fit[:400].rstrip(), again=again, paid=paid, halts=halts, seconds=seconds)


def _told(reason: Exception) -> str:
    return f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__


def _target(address: str, location: str) -> str:
    try:
        return origin(urljoin(address, location))
    except ValueError:
        return "no address"
