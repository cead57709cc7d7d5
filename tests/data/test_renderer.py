"""A template renders in a process of its own, which a hostile one can only end."""

import subprocess

import pytest

from limbeck.data.renderer import Asked, Renderer, Template
from limbeck.data.templates import shipped, template_of
from limbeck.errors import DataError

HELLO = Asked([{"role": "user", "content": "a"}], [])


def template(text, **changes):
    return Template("t", text, text, {}, **changes)


def test_messages_tools_variables_and_the_date_reach_the_template():
    text = (
        "{{ messages[0].content }} {{ tools | length }} {{ word }} {{ strftime_now('%d %b %Y') }}"
    )
    given = Template("t", "none", text, {"word": "é"}, "2025-01-31")
    with Renderer(given) as renderer:
        (found, plain) = renderer.render([Asked(HELLO.messages, [{"a": 1}]), HELLO])
    assert found.text == "a 1 é 31 Jan 2025"
    assert plain.text == "none"


def test_what_opens_an_answer_is_written_where_it_is_asked_for():
    with Renderer(template("{% if add_generation_prompt %}go{% endif %}")) as renderer:
        found = renderer.render([HELLO, Asked(HELLO.messages, [], prompt=True)])
    assert [one.text for one in found] == ["", "go"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "not callable|unsafe"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ 'a' * 99999999999 }}", "MemoryError"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{% include '/etc/passwd' %}", "no loader"),
    ],
)
def test_what_a_template_may_not_or_cannot_do_is_an_error_and_the_next_goes_on(text, reason):
    whole = "{% if messages[0].content == 'a' %}" + text + "{% endif %}b"
    with Renderer(template(whole)) as renderer:
        bad, good = renderer.render([HELLO, Asked([{"role": "user", "content": "c"}], [])])
    assert any(word in bad.error for word in reason.split("|"))
    assert good.text == "b"


def test_a_template_that_does_not_end_is_ended():
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    slow = "{% if messages[0].content == 'c' %}" + loop + "{% endif %}b"
    with Renderer(template(slow), seconds=0.3) as renderer:
        assert renderer.render([HELLO])[0].text == "b"
        with pytest.raises(DataError, match=r"still running after 0\.3 seconds"):
            renderer.render([Asked([{"role": "user", "content": "c"}], [])])
        assert renderer.ended


def test_a_process_that_is_gone_is_an_error(monkeypatch):
    with Renderer(template("b")) as renderer:
        renderer._process.kill()
        renderer._process.wait()
        with pytest.raises(DataError, match="ended with status -9"):
            renderer.render([HELLO])


def test_what_is_no_template_is_refused_at_once():
    with pytest.raises(DataError, match="no template that jinja can read"):
        Renderer(template("{% if %}"))


def test_nothing_is_left_running():
    with Renderer(template("b")) as renderer:
        process = renderer._process
    assert process.poll() is not None
    assert isinstance(process, subprocess.Popen)


class Bare:
    """As much of a tokenizer as a template needs."""

    special_tokens_map = {"eos_token": "</s>"}
    chat_template = {"default": "d", "tool_use": "t"}
    name_or_path = "bare"


def test_a_template_is_the_tokenizers_or_a_file_or_one_that_comes_along(tmp_path):
    own = template_of(Bare, None, {"enable_thinking": False}, "2024-07-26")
    assert (own.text, own.with_tools) == ("d", "t")
    assert own.variables == {"eos_token": "</s>", "enable_thinking": False}
    (tmp_path / "x.jinja").write_text("file")
    assert template_of(Bare, str(tmp_path / "x.jinja"), {}, "2024-07-26").text == "file"
    assert shipped() == ["chatml", "plain"]
    with Renderer(template_of(Bare, "plain", {}, "2024-07-26")) as renderer:
        turns = [{"role": "user", "content": " a "}, {"role": "assistant", "content": "b"}]
        (found,) = renderer.render([Asked(turns, [])])
    assert found.text == "User: a\n\nAssistant: b</s>\n\n"


def test_a_template_or_a_date_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="one of chatml, plain"):
        template_of(Bare, str(tmp_path / "nowhere.jinja"), {}, "2024-07-26")
    with pytest.raises(DataError, match="no date"):
        template_of(Bare, None, {}, "yesterday")
