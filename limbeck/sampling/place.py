"""Where a server is and how it is called, as a recipe says it: no secret is in it, and no network hears one."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from limbeck.errors import RecipeError
from limbeck.sampling import secret
from limbeck.sampling.address import loopback
from limbeck.spelling import Frozen

_PLAIN = re.compile(r"[\x21-\x7e]+")


class Place(Frozen):
    """A server. key: the NAME of an environment variable, never a key."""

    url: str = Field(description="such as https://api.openai.com/v1")
    model: str = Field(min_length=1, description="as the server calls it")
    key: str | None = Field(
        default=None, description="name of the environment variable that holds it"
    )
    plain_http: bool = Field(
        default=False, description="allows http to another machine, without a key"
    )

    @field_validator("key", mode="before")
    @classmethod
    def _a_name(cls, given: Any) -> Any:
        # The value is not repeated: it may be the key itself.
        if given is not None and not (isinstance(given, str) and secret.NAME.fullmatch(given)):
            raise ValueError(
                "wanted the name of an environment variable, such as MY_API_KEY. Were it the key itself: take it out "
                "of the file, and hold it for lost."
            )
        return given

    @field_validator("url", mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        wrong = (
            "wanted http(s)://host[:port][/path], with neither name and password nor ? or # in it."
        )
        if not isinstance(given, str):
            raise ValueError(wrong)
        try:
            parts = urlsplit(given)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            raise ValueError(wrong) from None
        if (
            not known
            or not _PLAIN.fullmatch(given)
            or "@" in parts.netloc
            or parts.query
            or parts.fragment
        ):
            raise ValueError(wrong)
        return given

    def check(self, where: str) -> None:
        """Refuses plain http to another machine, unless it was allowed, and a key over it in any case."""
        if urlsplit(self.url).scheme == "https" or loopback(self.url):
            return
        if not self.plain_http:
            raise RecipeError(
                f"{where}.url: http to another machine shows prompts and key to the network; wanted https. "
                "For a server without a key on a network that you trust, set plain_http: true."
            )
        if self.key:
            raise RecipeError(f"{where}.key: no key is sent over plain http to another machine.")
