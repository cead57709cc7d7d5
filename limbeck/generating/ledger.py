"""What was spent, and what may yet be: a request's worst case is set aside before it is sent."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.generating.settings import Prices
from limbeck.sampling.answers import Answer

_MILLION = 1_000_000


@dataclass
class Ledger:
    """spent: what was settled, of earlier runs too. held: worst cases of the requests on the way. cap: None for no limit.

    beyond: tokens that the server counted beside a prompt, at most, and that ours does not show. above: those that it
    counted above max_tokens, as servers do whose thoughts have no limit.
    """

    prices: Prices | None
    cap: float | None
    spent: float = 0.0
    held: float = 0.0
    on_the_way: int = 0
    beyond: int = 0
    above: int = 0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost; 0 without prices."""
        if self.prices is None:
            return 0.0
        whole = tokens_in * self.prices.input_per_million
        return (whole + tokens_out * self.prices.output_per_million) / _MILLION

    def worst(self, tokens_in: int, tokens_out: int) -> float:
        """The most that a request may cost, if the server counts no more beyond what was asked than it has so far."""
        return self.cost(tokens_in + self.beyond, tokens_out + self.above)

    def learn(self, answer: Answer, tokens_in: int, tokens_out: int) -> None:
        """Takes note of a server that read more than a prompt of at most tokens_in has, or wrote more than tokens_out."""
        self.beyond = max(self.beyond, (answer.tokens_in or 0) - tokens_in)
        self.above = max(self.above, (answer.tokens_out or 0) - tokens_out)

    def reserve(self, worst: float) -> bool:
        """Sets the worst case aside, if it fits under the cap together with all that is on the way."""
        if self.cap is not None and self.spent + self.held + worst > self.cap:
            return False
        self.held += worst
        self.on_the_way += 1
        return True

    def settle(self, worst: float, cost: float) -> None:
        """Puts what a request cost in the place of its worst case."""
        self.on_the_way -= 1
        # What sums of fractions leave over must not stay set aside.
        self.held = max(0.0, self.held - worst) if self.on_the_way else 0.0
        self.spent += cost

    def of(self, answer: Answer, worst: float) -> float:
        """What an answer cost, as the server counts; its worst case where the server does not say."""
        if answer.tokens_in is None or answer.tokens_out is None:
            return worst
        return self.cost(answer.tokens_in, answer.tokens_out)
