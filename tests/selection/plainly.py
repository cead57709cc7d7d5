"""Selection the slow way: one token at a time, in float64 and plain numpy, for the fast ways to be held against."""

import numpy as np

MARGIN = 1e-6


def probabilities(logits):
    """Float64 (vocab,) of one token's logits."""
    wide = np.asarray(logits, dtype=np.float64)
    powers = np.exp(wide - wide.max())
    return powers / powers.sum()


def entropy(logits):
    """In nats, of one token's logits."""
    p = probabilities(logits)
    p = p[p > 0]
    return -(p * np.log(p)).sum()


def threshold(logits, uniform, limit):
    """The exact ids and the drawn ones of one token, by walking along its ids."""
    heads, drawn = [], []
    tooth, walked = uniform * limit, 0.0
    for number, p in enumerate(probabilities(logits)):
        if p >= limit * (1 - MARGIN):
            heads.append(number)
            continue
        walked += p
        if tooth < walked:
            drawn.append(number)
            tooth += limit
    return heads, drawn


def resampled(logits, uniforms, exponent):
    """{id: weight} of one token: each uniform picks an id along the cumulative p ** exponent."""
    p = probabilities(logits)
    g = p**exponent / (p**exponent).sum()
    ends = g.cumsum()
    found = {}
    for uniform in uniforms:
        number = int(np.searchsorted(ends, uniform * ends[-1], side="right"))
        found[number] = found.get(number, 0.0) + p[number] / g[number] / len(uniforms)
    return dict(sorted(found.items()))
