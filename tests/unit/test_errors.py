from __future__ import annotations

import pytest

from nixfetch.errors import (
    FormatError,
    NixfetchError,
    StoreError,
    TransportError,
    TrustError,
    facts,
)


def failing(error: BaseException, **known: object) -> None:
    with facts(**known):
        raise error


def test_text_is_the_problem_and_the_facts() -> None:
    assert str(NixfetchError("too deep")) == "too deep"
    assert str(NixfetchError("too deep", hint="dig", depth=3, file="x")) == (
        "too deep (depth=3, file=x)"
    )


def test_attributes() -> None:
    error = NixfetchError("too deep", hint="dig", depth=3)
    assert (error.problem, error.hint, error.facts) == ("too deep", "dig", {"depth": 3})
    assert NixfetchError("too deep").hint is None


@pytest.mark.parametrize(
    ("family", "code"),
    [
        (NixfetchError, 1),
        (FormatError, 4),
        (TrustError, 4),
        (TransportError, 5),
        (StoreError, 6),
    ],
)
def test_families_have_exit_codes(family: type[NixfetchError], code: int) -> None:
    error = family("problem", hint="hint", path="x")
    assert isinstance(error, NixfetchError)
    assert (error.exit_code, error.hint, error.facts) == (code, "hint", {"path": "x"})


def test_transport_errors_say_whether_to_retry() -> None:
    plain = TransportError("refused")
    assert (plain.retryable, plain.retry_after) == (False, None)
    busy = TransportError("busy", retryable=True, retry_after=3.0, status=503)
    assert (busy.retryable, busy.retry_after, busy.facts) == (True, 3.0, {"status": 503})


def test_layers_add_what_they_know_and_the_deepest_wins() -> None:
    error = NixfetchError("too deep", offset=1)
    with pytest.raises(NixfetchError) as caught, facts(cache="c", offset=3):
        failing(error, url="u", offset=2)
    assert caught.value is error
    assert error.facts == {"cache": "c", "url": "u", "offset": 1}


def test_other_errors_pass_untouched() -> None:
    error = KeyError("x")
    with pytest.raises(KeyError) as caught:
        failing(error, url="u")
    assert caught.value is error


def test_without_an_error_nothing_happens() -> None:
    with facts(url="u"):
        pass
