"""A secret is hidden however it is spelled, and shown by nothing that holds it."""

import base64
import json
import urllib.parse

import pytest

from limbeck.errors import LimbeckError
from limbeck.sampling.address import loopback, origin
from limbeck.sampling.secret import Secret, from_environment

VALUE = 'canary"7f/3+a=secret'


def test_a_secret_is_hidden_in_every_spelling():
    key = Secret("MY_KEY", VALUE)
    spelled = [VALUE, urllib.parse.quote(VALUE, safe=""), json.dumps(VALUE)[1:-1]]
    spelled.append(base64.b64encode(VALUE.encode()).decode())
    for one in spelled:
        assert key.hide({f"a{one}": [one, 3, None]}) == {"a[MY_KEY]": ["[MY_KEY]", 3, None]}
    assert VALUE not in repr(key)
    assert Secret().hide("as it is") == "as it is"


@pytest.mark.parametrize("value", ["", "short", "two words here", "with\nline end", "ümläut-key"])
def test_what_is_no_key_is_refused_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(LimbeckError, match="MY_KEY") as found:
        from_environment("MY_KEY")
    assert not value or value not in str(found.value)


def test_an_origin_is_scheme_host_and_port():
    assert origin("https://API.example/v1") == origin("https://api.example:443/v2")
    assert origin("http://api.example/") != origin("https://api.example/")
    assert all(loopback(f"http://{host}/") for host in ("127.0.0.9", "[::1]", "localhost"))
    assert not loopback("http://localhost.example/")
