from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evil_labels import EVIL, HASH
from nixfetch import StorePath
from simulated_cache import store_path
from snapshotter import labels
from snapshotter.errors import InvalidArgumentError
from snapshotter.labels import (
    MAX_PATHS,
    NIX_CLOSURE,
    NIX_LAYER,
    NIX_LAYER_COMPLETE,
    NIX_STORE_PATH,
    SNAPSHOT_REF,
    NixLayer,
)

A, B, C = map(store_path, "abc")
LAYER = {NIX_LAYER: "true"}


def numbered(*paths: object, start: int = 0) -> dict[str, str]:
    return {f"{NIX_STORE_PATH}{number}": str(path) for number, path in enumerate(paths, start)}


def test_an_ordinary_layer() -> None:
    assert labels.parse({}) is None
    assert labels.parse({SNAPSHOT_REF: "sha256:1", "containerd.io/snapshot/other": "/etc"}) is None


def test_paths_by_number() -> None:
    """The tenth comes after the second, whatever their text says; each counts once."""
    found = labels.parse({**numbered(A, start=10), **numbered(B, C, B, start=1), **LAYER})
    assert found == NixLayer((B, C, A))


def test_a_closure() -> None:
    assert labels.parse({NIX_CLOSURE: str(A)}) == NixLayer((), closure=A)
    both = labels.parse({NIX_CLOSURE: str(A), **LAYER, **numbered(B, C)})
    assert both == NixLayer((B, C), closure=A)


def test_a_layer_of_nothing() -> None:
    assert labels.parse(LAYER) == NixLayer(())


def test_a_complete_layer_and_its_name() -> None:
    words = {**LAYER, **numbered(A), NIX_LAYER_COMPLETE: "true", SNAPSHOT_REF: "sha256:12"}
    assert labels.parse(words) == NixLayer((A,), complete=True, ref="sha256:12")


@pytest.mark.parametrize("value", [*EVIL, "\udcff"])
@pytest.mark.parametrize("label", [f"{NIX_STORE_PATH}1", NIX_CLOSURE])
@pytest.mark.parametrize("declared", [True, False])
def test_what_is_no_store_path(value: str, label: str, declared: bool) -> None:
    words = {label: value, **(LAYER if declared else {})}
    with pytest.raises(InvalidArgumentError) as caught:
        labels.parse(words)
    assert caught.value.facts["label"] == label
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 600


def test_one_bad_among_many() -> None:
    with pytest.raises(InvalidArgumentError):
        labels.parse({**LAYER, **numbered(A, B, "/etc", C)})


def test_paths_of_a_layer_that_is_none() -> None:
    for words in (numbered(A), {NIX_LAYER_COMPLETE: "true"}):
        with pytest.raises(InvalidArgumentError, match="that is none"):
            labels.parse(words)


@pytest.mark.parametrize("label", [NIX_LAYER, NIX_LAYER_COMPLETE])
@pytest.mark.parametrize("value", ["", "false", "True", "1", "true\n", "yes"])
def test_flags_are_true_or_not_there(label: str, value: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot have"):
        labels.parse({**LAYER, **numbered(A), label: value})


@pytest.mark.parametrize(
    "number",
    ["", "x", "01", "-1", "+1", "1.5", " 1", "1 ", "1\n", "\u0661", "1" * 10, "1/../2", "1e3"],
)
def test_numbers_of_paths(number: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no number"):
        labels.parse({**LAYER, NIX_STORE_PATH + number: str(A)})
    with pytest.raises(InvalidArgumentError):
        labels.parse({**LAYER, NIX_STORE_PATH.removesuffix("."): str(A)})


def test_as_many_as_may_be_and_one_more() -> None:
    most = numbered(*([A] * MAX_PATHS))
    assert labels.parse({**LAYER, **most}) == NixLayer((A,))
    with pytest.raises(InvalidArgumentError, match="too many"):
        labels.parse({**LAYER, **most, f"{NIX_STORE_PATH}{MAX_PATHS}": str(A)})
    with pytest.raises(InvalidArgumentError):
        labels.parse(most)


@pytest.mark.parametrize("ref", ["", "a\nb", "x" * 5000])
def test_a_name_that_is_none(ref: str) -> None:
    with pytest.raises(InvalidArgumentError):
        labels.parse({**LAYER, SNAPSHOT_REF: ref})


def test_the_longest_path_fits() -> None:
    longest = StorePath.parse(f"{HASH}-{'x' * 211}")
    assert len(str(longest)) == labels.MAX_VALUE
    assert labels.parse({**LAYER, **numbered(longest)}) == NixLayer((longest,))


def test_which_labels_are_ours() -> None:
    ours = [NIX_LAYER, NIX_CLOSURE, NIX_LAYER_COMPLETE, f"{NIX_STORE_PATH}7", f"{NIX_STORE_PATH}x"]
    assert all(map(labels.is_ours, ours))
    assert not any(map(labels.is_ours, ["", SNAPSHOT_REF, "containerd.io/snapshot/cri.image-ref"]))


KEYS = st.sampled_from(
    [NIX_LAYER, NIX_CLOSURE, NIX_LAYER_COMPLETE, SNAPSHOT_REF, f"{NIX_STORE_PATH}1"]
) | st.text(max_size=4).map(NIX_STORE_PATH.__add__)
VALUES = st.sampled_from(["true", str(A), str(B), *EVIL]) | st.text(max_size=40)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_nothing_but_store_paths_comes_through(words: dict[str, str]) -> None:
    try:
        found = labels.parse(words)
    except InvalidArgumentError:
        return
    paths = () if found is None else (*found.paths, *((found.closure,) if found.closure else ()))
    for path in paths:
        assert str(path) in words.values()
        assert StorePath.parse_full(str(path)) == path
    if found is None:
        assert not any(map(labels.is_ours, words))
