from __future__ import annotations

import pytest

from snapshotter import lifecycle
from snapshotter.errors import InvalidArgumentError, PreconditionError
from snapshotter.lifecycle import Kind


def test_kinds_are_those_of_the_wire() -> None:
    from snapshotter._pb import snapshots_pb2 as pb

    assert {kind.name: int(kind) for kind in Kind} | {"UNKNOWN": 0} == dict(pb.Kind.items())
    assert [kind.word for kind in Kind] == ["view", "active", "committed"]


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 4097, "é" * 2049])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        lifecycle.checked_name(name, "key")


@pytest.mark.parametrize("name", ["a", "../../etc", "default/1/extract-1-x sha256:0", "é"])
def test_a_name_is_any_other_text(name: str) -> None:
    assert lifecycle.checked_name(name, "key") == name


def test_labels_without_a_value_are_none() -> None:
    assert dict(lifecycle.checked_labels({"a": "1", "b": ""})) == {"a": "1"}


def test_labels_have_limits() -> None:
    lifecycle.checked_labels({"k": "v" * 4095})
    with pytest.raises(InvalidArgumentError, match="too long"):
        lifecycle.checked_labels({"k": "v" * 4096})
    with pytest.raises(InvalidArgumentError, match="too many"):
        lifecycle.checked_labels({str(n): "v" for n in range(lifecycle.MAX_LABELS + 1)})


@pytest.mark.parametrize(
    ("key", "labels", "unpacking"),
    [
        ("default/3/extract-123-aB_c sha256:00", {}, True),
        ("extract-123-aB sha256:00", {}, True),
        ("k8s.io/7/0123456789abcdef", {}, False),
        ("default/1/my-extract-1-x", {}, False),
        ("default/1/c1", {lifecycle.REF: "sha256:00"}, True),
        ("default/1/extract-x-y sha256:00", {}, False),
    ],
)
def test_what_is_unpacked(key: str, labels: dict[str, str], unpacking: bool) -> None:
    assert lifecycle.is_unpacking(key, labels) is unpacking


def test_only_a_committed_snapshot_has_children() -> None:
    lifecycle.check_parent(Kind.COMMITTED, "p")
    for kind in (Kind.ACTIVE, Kind.VIEW):
        with pytest.raises(InvalidArgumentError):
            lifecycle.check_parent(kind, "p")


def test_only_an_active_snapshot_is_committed() -> None:
    lifecycle.check_commit(Kind.ACTIVE, "k")
    for kind in (Kind.COMMITTED, Kind.VIEW):
        with pytest.raises(PreconditionError):
            lifecycle.check_commit(kind, "k")


def test_a_committed_snapshot_has_no_mounts() -> None:
    lifecycle.check_mountable(Kind.VIEW, "k")
    with pytest.raises(PreconditionError):
        lifecycle.check_mountable(Kind.COMMITTED, "k")


def test_a_parent_may_come_with_the_commit_and_never_changes() -> None:
    assert lifecycle.new_parent("", "") == ""
    assert lifecycle.new_parent("a", "") == "a"
    assert lifecycle.new_parent("", "a") == "a"
    assert lifecycle.new_parent("a", "a") == "a"
    with pytest.raises(InvalidArgumentError):
        lifecycle.new_parent("a", "b")


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ((), {"a": "2", "c": "3"}),
        (("labels",), {"a": "2", "c": "3"}),
        (("labels.a",), {"a": "2", "b": "1"}),
        (("labels.b",), {"a": "1", "b": ""}),
        (("labels.a", "labels.c"), {"a": "2", "b": "1", "c": "3"}),
    ],
)
def test_updates_of_labels(fields: tuple[str, ...], after: dict[str, str]) -> None:
    assert lifecycle.updated_labels({"a": "1", "b": "1"}, {"a": "2", "c": "3"}, fields) == after


@pytest.mark.parametrize("field", ["name", "parent", "kind", "created_at", "label", ""])
def test_nothing_else_can_be_updated(field: str) -> None:
    with pytest.raises(InvalidArgumentError):
        lifecycle.updated_labels({}, {}, (field,))
