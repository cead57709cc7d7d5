"""From a prompt to the ids that a model is asked with: through its chat template, up to where its answer begins."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from limbeck.data.controls import Controls, Written
from limbeck.data.marks import found, marked_messages, plain_messages
from limbeck.data.renderer import Asked, Renderer
from limbeck.data.templates import template_of
from limbeck.data.turns import Conversation, Turn, check
from limbeck.errors import DataError

_DATE = "2024-07-26"


class Prompter:
    """A context, which holds the process that renders the template; without one, words are read as they stand."""

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        told = template_of(tokenizer, template, {}, _DATE)
        self._renderer = None if told is None else Renderer(told)
        self._controls = Controls(tokenizer)
        self._known = dict[tuple[str, str | None], list[int] | DataError]()

    def __enter__(self) -> Prompter:
        if self._renderer is not None:
            self._renderer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._renderer is not None:
            self._renderer.__exit__(kind, reason, trace)

    def ids(self, text: str, system: str | None = None) -> list[int] | DataError:
        """The ids of a prompt, or why the template refuses it. Control strings that somebody wrote into it stay text.

        Raises DataError where nothing can be rendered any more.
        """
        if (text, system) not in self._known:
            try:
                self._known[text, system] = self._made(text, system)
            except DataError as reason:
                if self._renderer is not None and self._renderer.ended:
                    raise
                self._known[text, system] = reason
        return self._known[text, system]

    def _made(self, text: str, system: str | None) -> list[int]:
        check(text)
        check(system or "")
        if self._renderer is None:
            whole = f"{system}\n\n{text}" if system else text
            plainly: list[int] = self._tokenizer(whole, split_special_tokens=True).input_ids
            return plainly
        before = (Turn("system", system),) if system else ()
        given = Conversation((*before, Turn("user", text)))
        plain, marked = plain_messages(given), marked_messages(given, self._controls)
        asked = [Asked(one.messages, [], prompt=True) for one in (plain, marked)]
        answers = self._renderer.render(asked)
        for answer in answers:
            if answer.error:
                raise DataError(f"the template refuses it ({answer.error[:300]})")
        here = found(answers[1].text)
        if here.text != answers[0].text or len(here.leaves) != len(marked.leaves):
            raise DataError(
                "the template changes what is said, so its own control strings cannot be told"
            )
        said = Written(here.text, tuple(here.written(self._controls)), ())
        (encoded,) = self._controls.encode([said])
        if isinstance(encoded, DataError):
            raise encoded
        ids: list[int] = encoded.ids.tolist()
        return ids
