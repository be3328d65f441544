"""Typed buffers arrive with their element type, shape and bits, whatever their strides and byte order were."""

from __future__ import annotations

import array
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from isola_anyio import codec
from isola_anyio.testing import equal_exact

if TYPE_CHECKING:
    from types import ModuleType

    from tests.codec.js_harness import JsCodec

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", ">i2", ">f8", ">c16"]
ARRAYS: dict[str, Any] = {
    "no dimensions": lambda a: a[1, 1, 1:2].reshape(()),
    "vector": lambda a: a[0, 0],
    "matrix": lambda a: a[0],
    "cube": lambda a: a,
    "every other": lambda a: a[:, ::2],
    "backwards": lambda a: a[::-1, ::-1, ::-1],
    "transposed": lambda a: a.T,
    "fortran": np.asfortranarray,
    "broadcast": lambda a: np.broadcast_to(a[0], (5, *a[0].shape)),
    "column": lambda a: a[:, 1],
    "none": lambda a: a[:0],
    "none inside": lambda a: a[:, :0],
    "empty vector": lambda a: a[0, 0, :0],
    "ones": lambda a: a[:1, :1, :1],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arrange", ARRAYS)
def test_a_numpy_array_arrives_as_it_was(dtype: str, arrange: str, guest: ModuleType) -> None:
    rng = np.random.default_rng(7)
    raw: npt.NDArray[Any] = (rng.standard_normal((2, 3, 4)) * 50).astype(dtype)
    sent = ARRAYS[arrange](raw)
    for encode, decode in ((codec.encode, guest.decode), (guest.encode, codec.decode), (codec.encode, codec.decode)):
        found = decode(encode({"a": sent}))["a"]
        assert isinstance(found, memoryview)
        assert found.readonly
        back = np.asarray(found)
        assert back.shape == sent.shape
        assert back.dtype == sent.dtype.newbyteorder("=")
        assert back.tobytes() == sent.astype(back.dtype).tobytes()
        assert np.shares_memory(back, np.asarray(found)) or not back.size


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_reads_an_aligned_view_without_a_copy(dtype: str, guest: ModuleType) -> None:
    sent = np.arange(5).astype(dtype)
    wire = guest.encode([b"odd", "é", sent])
    found = codec.decode(wire)[2]
    back = np.asarray(found)
    assert back.flags.aligned
    assert not back.flags.owndata
    assert found.obj is wire or np.shares_memory(back, np.frombuffer(wire, np.uint8))


def test_without_numpy_there_is_a_stand_in_for_what_memoryview_cannot_be(no_numpy: None, guest: ModuleType) -> None:
    wires = {
        "c16": (bytes(range(32)), "2", "d", (2, 2)),
        "c8": (bytes(16), "1,2", "f", (1, 2, 2)),
        "f8": (b"", "3,0", "d", (0,)),
    }
    for name, (data, dims, letter, shape) in wires.items():
        text = f'{{"$":"t0:{name}:{dims}"}}'.encode()
        head = b"\xfe\x01\x01\x00" + len(text).to_bytes(4, "little") + b"\x01\0\0\0" + len(data).to_bytes(4, "little")
        wire = head + b"$" + text
        wire += bytes(-len(wire) % 8) + data
        for decode in (codec.decode, guest.decode):
            found = decode(wire)
            assert (found.format, found.shape, found.tobytes()) == (letter, shape, data)


def test_strides_need_no_numpy(no_numpy: None, guest: ModuleType) -> None:
    view = memoryview(bytes(range(48))).cast("i", (3, 4))[::-1]
    for encode in (codec.encode, guest.encode):
        found = codec.decode(encode(view))
        assert (found.shape, found.tolist()) == (view.shape, view.tolist())


@pytest.mark.parametrize("letter", "bBhHiIlLqQfd")
def test_an_array_array_arrives_as_a_view_of_its_type(letter: str, guest: ModuleType) -> None:
    sent = array.array(letter, [1, 2, 3])
    for encode, decode in ((codec.encode, guest.decode), (guest.encode, codec.decode)):
        found = decode(encode(sent))
        assert isinstance(found, memoryview)
        assert (found.itemsize, found.shape, found.tolist()) == (sent.itemsize, (3,), [1, 2, 3])


def test_bytes_stay_bytes_and_arrays_of_bytes_stay_arrays(guest: ModuleType) -> None:
    plain: list[Any] = [b"ab", bytearray(b"ab"), memoryview(b"ab"), memoryview(b"xaxb")[1::2]]
    for value in plain:
        assert codec.decode(guest.encode(value)) == b"ab"
        assert type(codec.decode(guest.encode(value))) is bytes
    with mmap.mmap(-1, 4) as mapped:
        arrays: list[Any] = [np.zeros(4, "u1"), array.array("B", [0] * 4), mapped]
        for value in arrays:
            found = codec.decode(guest.encode(value))
            assert isinstance(found, memoryview)
            assert (found.format, found.tobytes()) == ("B", bytes(4))


@pytest.mark.parametrize(
    ("dtype", "maker"),
    [
        ("i1", "Int8Array"),
        ("u1", "Uint8Array"),
        ("?", "Uint8Array"),
        ("i2", "Int16Array"),
        ("u2", "Uint16Array"),
        ("i4", "Int32Array"),
        ("u4", "Uint32Array"),
        ("i8", "BigInt64Array"),
        ("u8", "BigUint64Array"),
        ("f2", "Float16Array"),
        ("f4", "Float32Array"),
        ("f8", "Float64Array"),
        (">f8", "Float64Array"),
    ],
)
def test_javascript_gets_the_matching_typed_array_and_gives_it_back(dtype: str, maker: str, js: JsCodec) -> None:
    sent = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    wire = codec.encode(["odd", b"x", sent], dialect="js")
    assert js.run("value[2].constructor.name + value[2].length", wire) == f"{maker}6"
    assert js.run("String(value[2])", wire) == "0,1,0,1,0,1"
    back = codec.decode(js.there_and_back(wire))[2]
    if maker == "Uint8Array":
        assert back == sent.tobytes()
    else:
        assert np.asarray(back).dtype == sent.dtype.newbyteorder("=")
        assert np.array_equal(np.asarray(back), sent.ravel())


def test_javascript_has_no_complex_numbers() -> None:
    with pytest.raises(
        TypeError, match=r"complex128 is not a value that can cross to JavaScript; send \.real and \.imag"
    ):
        codec.encode(np.zeros(2, "c16"), dialect="js")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("new Uint8Array([1, 2])", b"\x01\x02"),
        ("new Uint8Array([1, 2]).buffer", b"\x01\x02"),
        ("new Uint8Array([0, 1, 2, 3]).subarray(1, 3)", b"\x01\x02"),
        ("new Uint8Array(0)", b""),
        ("new SharedArrayBuffer(2)", b"\0\0"),
    ],
)
def test_javascript_bytes_come_back_as_bytes(expression: str, expected: bytes, js: JsCodec) -> None:
    for wrapped in (expression, f"[{expression}]"):
        wire, error = js.encode(wrapped)
        assert error is None
        assert wire is not None
        found = codec.decode(wire)
        found = found[0] if wrapped != expression else found
        assert type(found) is bytes
        assert found == expected


@pytest.mark.parametrize(
    ("expression", "letter", "values"),
    [
        ("new DataView(new Uint8Array([1, 2, 3]).buffer, 1)", "B", [2, 3]),
        ("new Uint8ClampedArray([300])", "B", [255]),
        ("new Int16Array([-1, 2]).subarray(1)", "h", [2]),
        ("new Float64Array([1.5, -0])", "d", [1.5, -0.0]),
        ("new BigInt64Array([-5n])", "l", [-5]),
        ("new Float32Array(0)", "f", []),
    ],
)
def test_javascript_views_come_back_as_typed_buffers(
    expression: str, letter: str, values: list[Any], js: JsCodec
) -> None:
    wire, error = js.encode(f"{{a: {expression}, b: 1n << 64n}}")
    assert error is None
    assert wire is not None
    found = codec.decode(wire)["a"]
    assert (found.format, found.tolist()) == (letter, values)


def test_a_transferred_buffer_is_refused(js: JsCodec) -> None:
    _, error = js.encode("(() => { const a = new Uint8Array(4); a.buffer.transfer(); return [a]; })()")
    assert error is not None
    assert error[:2] == (
        "TypeError",
        "$[0]: a buffer that was transferred is not a value that can cross; send it before, or a copy",
    )


@pytest.mark.parametrize(
    ("scalar", "number"),
    [
        (np.int8(-3), -3),
        (np.int64(2**62 + 1), 2**62 + 1),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16(1.5), 1.5),
        (np.float32("nan"), float("nan")),
        (np.float64(-0.0), -0.0),
        (np.bool_(True), True),
    ],
)
@pytest.mark.parametrize("dialect", ["python", "js"])
def test_a_numpy_number_crosses_as_the_number_it_is(scalar: Any, number: Any, dialect: codec.Dialect) -> None:
    found = codec.decode(codec.encode({"a": [scalar]}, dialect=dialect))
    assert equal_exact(found, {"a": [number]})


@pytest.mark.parametrize(
    "scalar", [np.complex64(1j), np.longdouble(1), np.datetime64("2024-01-01"), np.timedelta64(1, "s")]
)
def test_a_numpy_scalar_that_is_no_number_of_pythons_is_refused(scalar: Any) -> None:
    with pytest.raises(codec.EncodeTypeError, match=r"convert it with \.item\(\)"):
        codec.encode([scalar])
