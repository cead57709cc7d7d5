"""Students that learn side by side from one teacher end where each would have ended alone."""

import tiny
import tiny_run
import torch

from limbeck.training import loop


class Counted(tiny_run.Alive):
    """Counts how often it was asked."""

    def __init__(self):
        super().__init__(tiny.llama(dtype=torch.float64, seed=2))
        self.asked = 0

    def signal(self, batch, wanted):
        self.asked += 1
        return super().signal(batch, wanted)


def students(dropout=0.0):
    for seed, layers in ((1, 2), (5, 1)):
        made = tiny.llama(dtype=torch.float64, seed=seed, layers=layers)
        made.config.attention_dropout = dropout
        for layer in made.model.layers:
            layer.self_attn.attention_dropout = dropout
        yield made


def weights(work):
    return {name: p.full_tensor().clone() for name, p in work.step_module.named_parameters()}


def apart(folder, dropout=0.0):
    found = []
    for number, student in enumerate(students(dropout)):
        work = tiny_run.job(folder / f"apart-{number}", student=student)
        loop.run([work])
        found.append(weights(work))
    return found


def equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_students_share_one_teacher_and_end_as_if_alone(tmp_path):
    teacher = Counted()
    works = [
        tiny_run.job(tmp_path / f"beside-{number}", student=student, teacher=teacher)
        for number, student in enumerate(students(0.1))
    ]
    loop.run(works)
    equal([weights(work) for work in works], apart(tmp_path, 0.1))
    steps, micro_batches = 6, 4
    assert teacher.asked == steps * micro_batches


def test_one_that_was_saved_earlier_catches_up_first(tmp_path):
    first, second = students()
    ahead = tiny_run.job(tmp_path / "beside-0", student=first)
    loop.one_step([ahead]), loop.one_step([ahead])
    behind = tiny_run.job(tmp_path / "beside-1", student=second)
    loop.run([ahead, behind])
    assert ahead.step == behind.step == 6
    equal([weights(ahead), weights(behind)], apart(tmp_path))
