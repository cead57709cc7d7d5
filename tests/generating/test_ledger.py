"""A ledger: what is set aside never goes above the cap, and nothing stays set aside for ever."""

import random

from limbeck.generating.ledger import Ledger
from limbeck.generating.settings import Prices
from limbeck.sampling.answers import Answer

PRICES = Prices(input_per_million=0.15, output_per_million=0.6)


def test_spent_and_held_stay_under_the_cap_in_any_order():
    draw, ledger, open_ = random.Random(0), Ledger(PRICES, 0.01), []
    for _ in range(3000):
        worst = ledger.cost(draw.randrange(900), 512)
        if ledger.reserve(worst):
            open_.append(worst)
        if open_ and draw.random() < 0.6:
            one = open_.pop(draw.randrange(len(open_)))
            ledger.settle(one, one * draw.random())
        assert ledger.spent + ledger.held <= 0.01 * (1 + 1e-9)
    for one in open_:
        ledger.settle(one, 0.0)
    assert (ledger.held, ledger.on_the_way) == (0.0, 0)


def test_an_answer_costs_what_the_server_counts_and_else_its_worst_case():
    ledger = Ledger(PRICES, None)
    assert ledger.of(Answer("", tokens_in=1_000_000, tokens_out=1_000_000), 9.0) == 0.75
    assert ledger.of(Answer("", tokens_in=1, tokens_out=None), 9.0) == 9.0
    assert Ledger(None, None).cost(5, 5) == 0.0
