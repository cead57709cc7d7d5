"""An update on this rank's pieces is torch's own on the whole, and none at all where a number is not finite."""

import pytest
import tiny_run
import torch
from torch.distributed.tensor import DTensor

from limbeck.errors import NonFinite
from limbeck.training import loop, optim


def learned(place):
    """A sharded job with gradients of its first step."""
    work = tiny_run.job(place, dtype=torch.float32)
    loop.gradients([work], 0)
    return work


def whole(tensors):
    return [t.full_tensor().clone() if isinstance(t, DTensor) else t.clone() for t in tensors]


def parameters(work):
    return [p for p in work.step_module.parameters() if p.grad is not None]


@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e6, None])
def test_gradients_are_clipped_as_torch_clips_them(tmp_path, limit):
    work = learned(tmp_path)
    plain = [torch.nn.Parameter(torch.zeros_like(g)) for g in whole(map(grad, parameters(work)))]
    for one, other in zip(plain, whole(map(grad, parameters(work))), strict=True):
        one.grad = other
    wanted = torch.nn.utils.clip_grad_norm_(plain, limit or float("inf"))
    found = optim.clip(work.step_module.parameters(), limit, work.world)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    for one, other in zip(whole(map(grad, parameters(work))), plain, strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-6, atol=0)


def grad(parameter):
    return parameter.grad


def test_the_norm_of_no_gradients_is_zero(tmp_path):
    work = tiny_run.job(tmp_path, dtype=torch.float32)
    assert float(optim.clip([], 1.0, work.world)) == 0


def test_an_update_is_torchs_own_and_sees_no_sharded_tensor(tmp_path):
    work = learned(tmp_path)
    group = work.adam.param_groups[0]
    planes = [[] for _ in range(6)]
    work.adam._init_group(group, *planes)
    seen = [tensor for plane in planes for tensor in plane]
    assert len(seen) >= 5 * len(planes[0]) > 0
    assert not any(isinstance(tensor, DTensor) for tensor in seen), "each would cost Python time"
    work.adam.state.clear()
    plain = [torch.nn.Parameter(p) for p in whole(parameters(work))]
    for one, other in zip(plain, whole(map(grad, parameters(work))), strict=True):
        one.grad = other
    numbers = {id(p): n for n, p in enumerate(parameters(work))}
    groups = [
        {**{k: v for k, v in one.items() if k != "params"}}
        | {"params": [plain[numbers[id(p)]] for p in one["params"] if id(p) in numbers]}
        for one in work.adam.param_groups
    ]
    torch.optim.AdamW(groups, fused=True).step()
    work.adam.step()
    for one, other in zip(whole(parameters(work)), plain, strict=True):
        assert torch.equal(one, other)


def edgy(student, teacher, rows, **options):
    """Finite, with a gradient that is not: the root of zero."""
    return (student.sum(-1) * 0).sqrt()


def test_a_gradient_that_is_not_finite_changes_nothing_at_all(tmp_path):
    work = tiny_run.job(tmp_path, dtype=torch.float32)
    loop.one_step([work])
    before = whole(work.step_module.parameters())
    states = [whole(state.values()) for state in work.adam.state.values()]
    work.functions = [edgy] * len(work.functions)
    with pytest.raises(NonFinite, match="step 1: the gradient's norm is nan"):
        loop.one_step([work])
    assert work.step == 1
    now = (
        [before, *states],
        [
            whole(work.step_module.parameters()),
            *(whole(state.values()) for state in work.adam.state.values()),
        ],
    )
    for left, right in zip(*now, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(left, right, strict=True))
