"""On a CUDA device head, selections and whole runs are what the CPU makes of them."""

from dataclasses import replace

import pytest
import tiny
import tiny_cache
import tiny_folder
import tiny_run
import torch

from limbeck import fitting, loading, run
from limbeck.cache.format import CacheAbout
from limbeck.errors import Interrupted
from limbeck.models.layout import Head
from limbeck.objectives._buffers import Room
from limbeck.objectives._chunks import chunked, whole
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.jensen_shannon import jensen_shannon
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.objectives.skew_kl import skew_kl
from limbeck.objectives.total_variation import total_variation
from limbeck.recording import record
from limbeck.selection.likeliest import likeliest
from limbeck.selection.mean import head_mean
from limbeck.selection.resampled import resampled
from limbeck.selection.threshold import threshold
from limbeck.teachers.live import Live
from limbeck.training import loop, meter
from limbeck.training.ahead import Ahead
from limbeck.types import HeadMean, Rows, Sampled, Signal, TopK, Wanted

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

# So many ids that the row functions are compiled, and no multiple of anything.
TOKENS, VOCAB, WIDTH = 41, 5003, 16
TERMS = {
    "forward": [forward_kl],
    "forward and labels": [forward_kl, cross_entropy],
    "reverse": [reverse_kl],
    "jensen": [jensen_shannon],
    "skewed": [skew_kl],
    "variation": [total_variation],
    "labels": [cross_entropy],
}
# How far loss and gradients may be from float64, over their size.
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def numbers(*shape, seed, by=1.0):
    return tiny.randn(*shape, seed=seed) * by


def rows():
    plain = tiny.rows(TOKENS, vocab=VOCAB)
    weights = tiny.randn(TOKENS, seed=9).abs()
    weights[::5] = 0.0
    return Rows(plain.labels, weights, plain.position_ids, plain.document_ids)


def moved(asked, device):
    each = (asked.labels, asked.weights, asked.position_ids, asked.document_ids)
    return Rows(*(plane.to(device) for plane in each))


def teachers():
    """One distribution in every kind, in float64."""
    hidden, weight = numbers(TOKENS, WIDTH, seed=3), numbers(VOCAB, WIDTH, seed=4, by=0.7)
    logits = hidden @ weight.T
    logprobs, ids = logits.log_softmax(-1).topk(12)
    rest = torch.log1p(-logprobs.exp().sum(-1))
    counts = torch.arange(TOKENS) % 9
    some = torch.cat([tiny.randn(VOCAB, seed=n).topk(n).indices for n in counts.tolist()])
    weights = tiny.randn(int(counts.sum()), seed=5).abs()
    return {
        "live": Signal(hidden=hidden, head=Head(weight, None, 1.0, None, VOCAB)),
        "topk": Signal(topk=TopK(ids, logprobs, rest)),
        "sampled": Signal(sampled=Sampled.of(some, weights, counts)),
    }


def on(signal, device, dtype):
    if signal.head is not None:
        head = replace(signal.head, weight=signal.head.weight.to(device, dtype))
        return Signal(hidden=signal.hidden.to(device, dtype), head=head)
    if signal.topk is not None:
        kept = signal.topk
        return Signal(topk=TopK(kept.ids, kept.logprobs.float(), kept.rest.float()).to(device))
    return Signal(sampled=signal.sampled.to(device))


def learned(function, signal, terms, device, dtype, **options):
    """Total and gradients of hidden states and head, in float64 on the CPU."""
    hidden = numbers(TOKENS, WIDTH, seed=1).to(dtype).to(device).requires_grad_()
    weight = numbers(VOCAB, WIDTH, seed=2, by=0.6).to(dtype).to(device).requires_grad_()
    head = Head(weight, None, 1.0, None, VOCAB)
    total, _ = function(
        hidden, head, signal, moved(rows(), device), terms, [1.0 / TOKENS] * len(terms), **options
    )
    total.backward()
    return [part.double().cpu() for part in (total.detach(), hidden.grad, weight.grad)]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("kind", ["live", "topk", "sampled"])
@pytest.mark.parametrize("terms", TERMS)
def test_the_head_gives_what_the_plain_way_gives_in_float64(terms, kind, dtype):
    if kind == "sampled" and not terms.startswith(("forward", "labels")):
        pytest.skip("a sample serves forward KL alone")
    exact = teachers()[kind]
    if dtype == torch.bfloat16 and kind == "live":  # what is rounded before is not the head's error
        head = replace(exact.head, weight=exact.head.weight.to(dtype).double())
        exact = Signal(hidden=exact.hidden.to(dtype).double(), head=head)
    given = on(exact, "cuda", dtype)
    found = learned(chunked, given, TERMS[terms], "cuda", dtype, chunk=13, room=Room())
    rounded = [numbers(TOKENS, WIDTH, seed=1), numbers(VOCAB, WIDTH, seed=2, by=0.6)]
    hidden, weight = (part.to(dtype).double().requires_grad_() for part in rounded)
    wanted, _ = whole(
        hidden,
        Head(weight, None, 1.0, None, VOCAB),
        exact,
        rows(),
        TERMS[terms],
        [1.0 / TOKENS] * len(TERMS[terms]),
    )
    wanted.backward()
    for one, other in zip(found, [wanted.detach(), hidden.grad, weight.grad], strict=True):
        assert (one - other).norm() <= CLOSE[dtype] * other.norm()


def test_a_mean_row_gives_what_the_whole_teacher_gives():
    weight = numbers(VOCAB, WIDTH, seed=2, by=0.6)
    theirs = teachers()["live"].distribution(slice(0, TOKENS))
    mean = head_mean(theirs.float().cuda(), weight.float().cuda())
    head = Head(weight.float().cuda(), None, 1.0, None, VOCAB)
    hidden = numbers(TOKENS, WIDTH, seed=1).float().cuda().requires_grad_()
    signal = Signal(mean=HeadMean(mean.rows, mean.entropy))
    total, _ = chunked(hidden, head, signal, moved(rows(), "cuda"), [forward_kl], [1.0], chunk=13)
    total.backward()
    exact = numbers(TOKENS, WIDTH, seed=1).requires_grad_()
    plain = Head(weight, None, 1.0, None, VOCAB)
    wanted, _ = whole(exact, plain, Signal(logits=theirs), rows(), [forward_kl], [1.0])
    wanted.backward()
    torch.testing.assert_close(total.detach().double().cpu(), wanted.detach(), rtol=1e-5, atol=0)
    off = (hidden.grad.double().cpu() - exact.grad).norm()
    assert off <= 1e-4 * exact.grad.norm()


def test_selections_keep_the_ids_that_the_cpu_keeps():
    logits = (tiny.randn(200, VOCAB, seed=6) * 3).float()
    shifts = torch.rand(2, 200, generator=tiny.generator(7), dtype=torch.float64)
    here, there = threshold(logits, shifts), threshold(logits.cuda(), shifts)
    assert torch.equal(here.heads, there.heads.cpu())
    assert torch.equal(here.head_ids, there.head_ids.cpu())
    torch.testing.assert_close(here.head_logprobs, there.head_logprobs.cpu(), atol=1e-5, rtol=0)
    torch.testing.assert_close(here.entropy, there.entropy.cpu(), atol=1e-4, rtol=0)
    # A tooth on a border may fall to either side of it where sums differ in their last digits.
    assert (here.tails != there.tails.cpu()).float().mean() < 0.01
    near, far = likeliest(logits, 16), likeliest(logits.cuda(), 16)
    assert torch.equal(near.ids.sort(-1).values, far.ids.cpu().sort(-1).values)
    torch.testing.assert_close(near.logprobs, far.logprobs.cpu(), atol=1e-5, rtol=0)
    torch.testing.assert_close(near.rest, far.rest.cpu(), atol=1e-4, rtol=0)
    points = torch.rand(50, 200, generator=tiny.generator(8), dtype=torch.float64)
    drawn, again = resampled(logits, points), resampled(logits.cuda(), points)
    assert (drawn.starts.diff() - again.starts.diff()).abs().float().mean() < 0.05


def test_a_teacher_that_works_ahead_on_its_own_stream_changes_nothing():
    found = []
    for early in (False, True):
        teacher = tiny_run.Alive(tiny.llama(seed=2).cuda())
        ahead = Ahead(tiny_run.Ragged(), teacher, torch.device("cuda"), Wanted(), early)
        parts = [range(at, at + 2) for at in range(0, 12, 2)]
        signals = []
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            batch, signal = ahead.take(part, following)
            # The student is still far behind when the next is made: what it reads must not be written over.
            torch.cuda._sleep(20_000_000)
            signals.append((batch.input_ids.clone(), signal.hidden.clone()))
            ahead.proceed()
        found.append([(ids.cpu(), hidden.cpu()) for ids, hidden in signals])
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def recorded(path, **options):
    teacher = Live(tiny.llama(seed=2).cuda())
    about = CacheAbout("0" * 64, "0" * 64, tiny.VOCAB, tiny_cache.LENGTH, kind="sample")
    sizes = {"rows_per_shard": 4, "micro_rows": 2, "chunk": 5}
    text = tiny_cache.Text(20)
    return record(teacher, text, range(20), path, about, device="cuda", **sizes, **options)


def test_a_recording_that_reads_ahead_stops_without_losing_what_it_has(tmp_path):
    recorded(tmp_path / "whole")
    for calls in (1, 4, 5, 8):
        place = tmp_path / f"stopped-{calls}"
        asked = iter([False] * calls)
        with pytest.raises(Interrupted):
            recorded(place, stop=lambda asked=asked: next(asked, True))
        # One look at the positions, then two micro-batches a shard.
        assert recorded(place).already_there == 4 * ((calls - 1) // 2)
        assert tiny_cache.contents(place) == tiny_cache.contents(tmp_path / "whole")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("device")


def carried_out(place, name, **changes):
    asked = tiny_folder.recipe(
        place, name=name, **{"compute": {"device": "cuda", "dtype": "float32"}, **changes}
    )
    run.carry_out(fitting.check(asked))
    return tiny_folder.folder(asked)


def losses(folder):
    return [line["loss"] for line in meter.read(folder.log)]


def test_a_whole_run_learns_and_leaves_what_loads_anywhere(place):
    folder = carried_out(place, "whole")
    found = losses(folder)
    assert found[-1] < found[0]
    assert (folder.export / "model.safetensors").is_file()
    on_cpu = tiny_folder.recipe(place, name="plain", compute={"device": "cpu", "dtype": "float32"})
    run.carry_out(fitting.check(on_cpu))
    other = losses(tiny_folder.folder(on_cpu))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(other), atol=2e-3, rtol=0)


def test_what_was_recorded_on_a_device_serves_as_the_live_teacher_does(place):
    tiny_folder.tree(place)
    alive = {"live": {"model": str(place / "teacher")}}
    kept = tiny_folder.cached(place, path=str(place / "every-id"), k=tiny_folder.VOCAB)
    torch.testing.assert_close(
        torch.tensor(losses(carried_out(place, "from-cache", teacher=kept))),
        torch.tensor(losses(carried_out(place, "live", teacher=alive))),
        atol=2e-3,
        rtol=0,
    )


def test_a_run_in_bfloat16_from_a_sample_learns(place):
    tiny_folder.tree(place)
    teacher = {"cached": {"model": str(place / "teacher"), "path": str(place / "sample")}}
    folder = carried_out(
        place, "narrow", teacher=teacher, compute={"device": "cuda", "dtype": "bfloat16"}
    )
    found = losses(folder)
    assert found[-1] < found[0]


def test_a_stopped_run_goes_on_as_if_it_had_not(place):
    whole_run = carried_out(place, "unstopped", control=False)
    asked = loading.build(
        tiny_folder.tree(
            place, name="stopped", control=False, compute={"device": "cuda", "dtype": "float32"}
        ),
        "recipe",
    )
    steps = iter([False] * 9 + [True] * 100)
    with pytest.raises(loop.Interrupted):
        tiny_folder.trained(fitting.check(asked), stop=lambda: next(steps))
    tiny_folder.trained(fitting.check(asked))
    # Sums of gradients by atomic additions have no fixed order on a device, so the last digits may differ.
    torch.testing.assert_close(
        torch.tensor(losses(tiny_folder.folder(asked))),
        torch.tensor(losses(whole_run)),
        atol=1e-4,
        rtol=0,
    )
