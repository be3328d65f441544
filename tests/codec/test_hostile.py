"""Whatever a guest sends, decoding gives a value or `CodecError`, within a small multiple of the bytes."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isola_anyio import codec
from isola_anyio.testing import equal_exact, json_values

if TYPE_CHECKING:
    from types import ModuleType

ALLOWED_TIMES = 40
"""A dict of one member takes 8 bytes of text and 232 of memory."""
ALLOWED_BYTES = 64 * 1024


def decode_measured(data: bytes) -> Any:
    """Decode, and fail if that took more memory than is fair."""
    tracemalloc.start()
    try:
        return codec.decode(data)
    except codec.CodecError as error:
        assert str(error).startswith("$")
        assert len(str(error)) < 400
        return None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= ALLOWED_TIMES * len(data) + ALLOWED_BYTES


def frame(text: bytes, *segments: bytes, key: bytes = b"$", flags: int = 0) -> bytes:
    out = struct.pack("<BBBBII", 0xFE, 1, len(key), flags, len(text), len(segments))
    out += struct.pack(f"<{len(segments)}I", *map(len, segments)) + key + text
    for segment in segments:
        out += bytes(-len(out) % 8) + segment
    return out


@given(data=st.binary(max_size=300))
@example(b"")
@example(b"\xfe")
@example(b"\xfe\x01\x01\x00" + b"\xff" * 8)
@example(b"\xfe\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
@example(b" 1")
@example(b"1 ")
@example(b"\xef\xbb\xbf1")
@example(b'"\xff"')
@example(b'"\xed\xa0\x80"')
@example(b"[" * 200)
@example(b"[1}")
@example(b"-")
def test_random_bytes_give_a_value_or_a_codec_error(data: bytes) -> None:
    decode_measured(data)


@given(data=st.binary(max_size=200).map(lambda tail: b"\xfe\x01\x01\x00" + tail))
def test_random_frames_give_a_value_or_a_codec_error(data: bytes) -> None:
    decode_measured(data)


@given(value=json_values(), data=st.data())
def test_mutated_values_give_a_value_or_a_codec_error(value: Any, data: st.DataObject, guest: ModuleType) -> None:
    wire = bytearray(guest.encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(wire)))
        change = data.draw(st.sampled_from(["set", "cut", "put", "flip"]))
        if change == "set" and at < len(wire):
            wire[at] = data.draw(st.integers(0, 255))
        elif change == "flip" and at < len(wire):
            wire[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "cut":
            del wire[at : at + data.draw(st.integers(1, 9))]
        else:
            wire[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    decode_measured(bytes(wire))


@pytest.mark.slow
@pytest.mark.parametrize(
    "item",
    [b"[]", b"{}", b"[0]", b'{"":0}', b'{"a":{}}', b"1e9", b"257", b'"ab"', b'"\\u0101"', b"null", b'"\xc4\x81"'],
)
@pytest.mark.parametrize("size", [200_000, 600_000])
def test_no_text_unfolds_into_more_than_a_small_multiple(item: bytes, size: int) -> None:
    found = decode_measured(b"[" + b",".join([item] * (size // (len(item) + 1))) + b"]")
    assert len(found) == size // (len(item) + 1)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        (b'[{"$":"b0"},{"$":"b0"}]', [b"x"]),
        (b'[{"$":"s0"},{"$":"b0"}]', [b"x"]),
        (b'{"$":"b1"}', [b"x"]),
        (b'{"$":"b-1"}', [b"x"]),
        (b'{"$":"b"}', [b"x"]),
        (b'{"$":"b00000000000000000000000"}', [b"x"]),
        ('{"$":"b²"}'.encode(), [b"x"]),
        (b"[]", [b"x"]),
        (b'{"$":""}', []),
        (b'{"$":"x0"}', []),
        (b'{"$":"i"}', []),
        (b'{"$":"izz"}', []),
        (b'{"$":"fzz"}', []),
        (b'{"$":"s0"}', [b"\xff"]),
        (b'{"$":"t0:f8:2"}', [bytes(8)]),
        (b'{"$":"t0:f8:1,1,-1"}', [bytes(8)]),
        (b'{"$":"t0:f8:99999999999999999999"}', [bytes(8)]),
        (b'{"$":"t0:f3:1"}', [bytes(3)]),
        (b'{"$":"t0:f8"}', [bytes(16)]),
        (b'{"$":"t0:f8:0,999999999999999,999999999999999"}', [b""]),
        (b'{"$":"t0:c16:0,999999999999999,999999999999999"}', [b""]),
        (b'{"$":"t0:u1:' + b",".join([b"1"] * 70) + b'"}', [b"x"]),
        (b'{"$":"t0"}', [b"xx"]),
    ],
)
def test_escapes_that_lie_are_refused(text: bytes, segments: list[bytes]) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(frame(text, *segments))


@pytest.mark.usefixtures("no_numpy")
@pytest.mark.parametrize("name", ["f8", "f2", "c16", "u1", "b1"])
@pytest.mark.parametrize(
    "shape",
    ["0,999999999999999,999999999999999", "999999999999999,0,999999999999999", "999999999999999,999999999999999,0"],
)
def test_an_empty_buffer_larger_than_any_array_is_refused_without_numpy_too(name: str, shape: str) -> None:
    with pytest.raises(codec.CodecError, match="a buffer of 0 bytes cannot be"):
        codec.decode(frame(b'{"$":"t0:%s:%s"}' % (name.encode(), shape.encode()), b""))


def test_frames_whose_numbers_lie_are_refused() -> None:
    good = frame(b'{"$":"b0"}', b"xyz")
    assert codec.decode(good) == b"xyz"
    for at in range(12):
        for value in (0, 2, 9, 0x7F, 0xFF):
            changed = bytearray(good)
            changed[at] = value
            if value != good[at]:
                assert decode_measured(bytes(changed)) is None, at
    assert decode_measured(good + b"\0") is None
    assert decode_measured(good[:-1]) is None


def test_an_empty_buffer_cannot_make_the_host_allocate_its_claimed_rows() -> None:
    found = decode_measured(frame(b'{"$":"t0:f8:0,100000000"}', b""))
    assert found.nbytes == 0


def test_depth_is_checked_before_it_is_believed(guest: ModuleType) -> None:
    for opener, closer in ((b"[", b"]"), (b'{"a":', b"}"), (b'[" ]]",', b"]"), (b'["\\"]\\\\",', b"]")):
        for depth, fits in ((500, True), (501, False), (100_000, False)):
            wire = opener * depth + b"0" + closer * depth
            if fits:
                assert equal_exact(codec.decode(wire), guest.decode(wire))
            else:
                with pytest.raises(codec.CodecError, match="nested deeper than 500 levels"):
                    codec.decode(wire)


def test_a_frame_cannot_hide_an_escape_in_an_escape() -> None:
    # The payload of the outer one is what the inner one stands for, which uses up its segment.
    wire = frame(b'{"$":{"$":"s0"}}', b"b1", b"data")
    assert codec.decode(wire) == b"data"
    with pytest.raises(codec.CodecError, match="used twice"):
        codec.decode(frame(b'{"$":{"$":"s0"}}', b"b0"))


def test_more_segments_than_the_text_can_name_are_refused_before_they_are_looked_at() -> None:
    count = 200_000
    empties = struct.pack("<BBBBII", 0xFE, 1, 1, 0, 1, count) + bytes(4 * count) + b"$0" + bytes(-(2 + 12) % 8)
    tracemalloc.start()
    try:
        with pytest.raises(codec.CodecError, match="200000 segments are more than a text of 1 bytes refers to"):
            codec.decode(empties)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "flags"), [(b'{"$":"b%d"}', 0), (b'{"$":"t%d:u1:0"}', 0), (b'{"$s%d":0}', 1)])
def test_a_frame_of_segments_takes_a_small_multiple_of_its_bytes(reference: bytes, flags: int) -> None:
    count = 40_000
    text = b"[" + b",".join(reference % number for number in range(count)) + b"]"
    found = decode_measured(frame(text, *[b""] * count, flags=flags))
    assert len(found) == count


def test_the_densest_keys_that_are_segments_are_within_what_a_text_may_refer_to() -> None:
    assert codec.decode(frame(b'{"$s0":0}', b"key", flags=1)) == {"key": 0}
    keys = [b"%d" % number for number in range(10)]
    text = b"{" + b",".join(b'"$s%d":0' % number for number in range(10)) + b"}"
    assert codec.decode(frame(text, *keys, flags=1)) == {str(number): 0 for number in range(10)}


def test_a_text_of_continuation_bytes_is_refused_at_once() -> None:
    for segment in (b"\x80" * 500_000, b"x" + b"\x80" * 500_000, "é".encode() * 100_000 + b"\x80" * 200_000):
        with pytest.raises(codec.CodecError, match="not UTF-8"):
            codec.decode(frame(b'{"$":"s0"}', segment))


@pytest.mark.parametrize("unit", ["\ud800\udc00", "é", "€", "😀", "a", "\udfff\U0010ffff"])
@pytest.mark.parametrize("shift", ["", "x", "xy", "xyz"])
def test_a_long_str_of_a_segment_comes_back_whole_and_never_far_from_its_pauses(unit: str, shift: str) -> None:
    text = shift + unit * 150_000 + "\ud800\udc00"
    pauses: list[int] = []
    raw = text.encode("utf-8", "surrogatepass")
    assert codec.decode(frame(b'{"$":"s0"}', raw), pause=lambda: pauses.append(1)) == text
    assert len(pauses) >= len(raw) // (256 * 1024)


def test_a_text_longer_than_the_frame_is_refused_before_its_segments_are_counted() -> None:
    wire = bytearray(codec.encode([b"x"]))
    wire[4:8] = b"\xff" * 4  # how long the text is
    with pytest.raises(codec.CodecError, match="a text of 4294967295 bytes"):
        codec.decode(bytes(wire))
