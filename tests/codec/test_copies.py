"""The host's codec and the Python guest's agree entry by entry; ``isola_anyio/codec/__init__.py`` says why there are two."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio.codec import buffers, encoding, errors, frame, jsontext

if TYPE_CHECKING:
    from types import ModuleType


def of_guest(guest: ModuleType, name: str) -> Any:
    return importlib.import_module(f"{guest.__package__}.{name}")


def test_their_limits_and_constants_are_the_same(guest: ModuleType) -> None:
    escapes, frames = of_guest(guest, "_codec_escapes"), of_guest(guest, "_codec_frames")
    assert guest.MAX_DEPTH == escapes.MAX_DEPTH == jsontext.MAX_DEPTH
    assert guest.MAX_INT_DIGITS == jsontext.MAX_INT_DIGITS
    assert escapes.MAX_INT_BITS == encoding.MAX_INT_BITS
    assert escapes.INLINE_HEX_BITS == encoding.INLINE_HEX_BITS
    assert escapes._KEY == encoding.KEY
    assert frames.MAGIC == frame.MAGIC
    assert frames.SEGMENT_KEYS == frame.SEGMENT_KEYS
    assert frames._VERSION == frame.VERSION
    assert frames._HEAD.format == frame._HEAD.format
    assert frames._LONGEST_REFERENCE == frame.LONGEST_REFERENCE_BYTES
    assert guest._COERCED_KEY.__self__.pattern == jsontext.COERCED_KEY.pattern
    assert escapes.surrogate_pair.__self__.pattern == jsontext._SURROGATE_PAIR.pattern


@pytest.mark.parametrize("table", ["_SIZES", "_LETTERS", "_REMEDIES"])
def test_their_tables_of_typed_buffers_are_the_same(guest: ModuleType, table: str) -> None:
    assert getattr(of_guest(guest, "_codec_buffers"), table) == getattr(buffers, table)


def test_the_guest_knows_the_hosts_letters_and_those_of_its_own_numpy(guest: ModuleType) -> None:
    kinds = of_guest(guest, "_codec_buffers")._KINDS
    assert {letters: kinds[letters] for letters in buffers._KINDS} == buffers._KINDS
    assert set(kinds) - set(buffers._KINDS) == {"F", "D"}


def test_their_errors_and_remedies_are_the_same(guest: ModuleType) -> None:
    theirs = of_guest(guest, "_codec_errors")
    assert theirs._REMEDIES == errors._REMEDIES
    assert theirs._PLAIN_KEY.pattern == errors._PLAIN_KEY.pattern
    for name in ("CodecError", "EncodeError", "EncodeTypeError", "TooLarge"):
        own, other = getattr(errors, name), getattr(theirs, name)
        assert [base.__name__ for base in own.__mro__] == [base.__name__ for base in other.__mro__]
        assert getattr(own, "kind", None) == getattr(other, "kind", None)
    paths: list[list[str | int]] = [[], ["a", 0, "a b", "é", ""], ["k" * 50], [*range(40)], ['"'] * 33]
    for steps in paths:
        assert theirs.format_path("$", steps) == errors.format_path("$", steps)
    assert str(theirs.TooLarge("$", 5, 4)) == str(errors.TooLarge("$", 5, 4))
