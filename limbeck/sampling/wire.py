"""One exchange with a server over HTTP: the key goes to its origin alone, and whatever comes back is data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx

from limbeck.errors import Damaged
from limbeck.files import parse_json
from limbeck.sampling.address import origin
from limbeck.sampling.answers import Failure
from limbeck.sampling.pace import retry_after
from limbeck.sampling.secret import Secret
from limbeck.sampling.shapes import Unexpected

LARGEST = 16_000_000
"""Bytes of the longest body that is read."""
_CONNECTING = 15.0
_SAID = 100_000
"""Bytes of a refusal that are looked at."""
_AGAIN = (408, 409, 425, 429)
_HOPELESS = (401, 402, 403, 404)
# Before a byte of the request is gone: nobody can have been paid.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)

Found = TypeVar("Found")


class Wire:
    """Connections to one server; a context, which closes them. seconds: of a whole exchange. largest: bytes of a body."""

    def __init__(
        self, url: str, key: Secret, *, seconds: float, largest: int, concurrency: int
    ) -> None:
        for name in ("httpx2", "httpcore2"):  # at lower levels they print headers and addresses
            logging.getLogger(name).setLevel(logging.WARNING)
        self._key, self._seconds, self._largest = key, seconds, largest
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            # A proxy of the environment would read what goes over plain HTTP.
            trust_env=urlsplit(url).scheme == "https",
            timeout=httpx.Timeout(seconds, connect=min(_CONNECTING, seconds)),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def exchange(
        self,
        address: str,
        body: dict[str, Any] | None,
        headers: dict[str, str],
        read: Callable[[dict[str, Any]], Found],
    ) -> Found | Failure:
        """One request, once, and what `read` makes of its body. Nothing that a server does raises. body: None asks by GET."""
        seconds = self._seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(self._request(address, body, headers), read)
        except _UNSENT as reason:
            return self._failed(f"no connection ({_told(reason)})", again=True)
        except (TimeoutError, httpx.TimeoutException):
            return self._failed(f"no answer within {seconds:g} seconds", again=True, paid=True)
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as reason:
            return self._failed(f"the connection broke ({_told(reason)})", again=True, paid=True)

    def _request(
        self, address: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> httpx.Request:
        told = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            # Unpacked nowhere, so that the limit on bytes holds.
            "Accept-Encoding": "identity",
            **headers,
        }
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        method = "GET" if content is None else "POST"
        return self._client.build_request(method, address, content=content, headers=told)

    async def _exchange(
        self, request: httpx.Request, read: Callable[[dict[str, Any]], Found]
    ) -> Found | Failure:
        address = str(request.url)
        response = await self._client.send(request, stream=True)
        async with contextlib.aclosing(response):
            if 300 <= response.status_code < 400:
                there = _target(address, response.headers.get("location", ""))
                return self._failed(
                    f"{origin(address)} redirects to {there}, and no redirect is followed, since the key is for "
                    "one origin. Correct teacher.url",
                    halts=True,
                )
            raw = bytearray()
            async for piece in response.aiter_raw():
                raw += piece
                if len(raw) > self._largest:
                    paid = response.status_code < 300
                    return self._failed(
                        f"a body of more than {self._largest:,} bytes", again=True, paid=paid
                    )
            if response.status_code >= 300:
                return self._refused(response, bytes(raw))
            return self._read(response, bytes(raw), read)

    def _refused(self, response: httpx.Response, raw: bytes) -> Failure:
        status = response.status_code
        # Hidden first here too: what is cut in the middle of a key is not found to be one.
        said = " ".join(self._key.hide(raw[:_SAID].decode(errors="replace"))[:2000].split())
        seconds = retry_after(response.headers.get("retry-after"))
        return self._failed(
            f"status {status}: {said}",
            again=status in _AGAIN or status >= 500,
            halts=status in _HOPELESS,
            seconds=seconds if status in (429, 503) else None,
        )

    def _read(
        self, response: httpx.Response, raw: bytes, read: Callable[[dict[str, Any]], Found]
    ) -> Found | Failure:
        """What is in a body; where it is nothing, it has been paid for all the same."""
        if response.headers.get("content-encoding", "identity") != "identity":
            return self._failed("a packed body, which was not asked for", again=True, paid=True)
        kind = response.headers.get("content-type", "").partition(";")[0].strip()
        try:
            body = parse_json(raw, "the body")
            if not isinstance(body, dict):
                raise Unexpected(f"JSON of a {type(body).__name__}")
            return read(body)
        except (Damaged, Unexpected) as reason:
            told = f"status {response.status_code} with {kind or 'something'} that is no answer: {reason}"
            return self._failed(told, again=True, paid=True)

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
