from __future__ import annotations

import pytest

from nixfetch.transport import AuthenticationError, Basic, Bearer


def test_what_is_sent() -> None:
    assert Basic("user", "hush").authorization() == "Basic dXNlcjpodXNo"
    assert Basic("ü", "").authorization() == "Basic w7w6"
    assert Bearer("a.b-c_d~+/=").authorization() == "Bearer a.b-c_d~+/="


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(Basic("user", "hush")) + repr(Bearer("hush"))


@pytest.mark.parametrize("token", ["", "a b", "hush\r\nX: y", "hush\n", "hüsh", "\x7f"])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Bearer(token)
    assert "hush" not in str(caught.value)
