"""A pretrained student is what its name loads, whole."""

import tiny

from limbeck.students.pretrained import pretrained
from limbeck.types import Materials


def test_it_is_what_the_name_loads_and_the_teacher_is_not():
    asked = []

    def load(name, revision):
        asked.append((name, revision))
        return tiny.llama()

    def teacher():
        raise AssertionError("the teacher was loaded for nothing")

    found = pretrained(Materials(teacher=teacher, load=load), model="small", revision="abc")
    assert asked == [("small", "abc")]
    assert found.config.vocab_size == tiny.VOCAB
