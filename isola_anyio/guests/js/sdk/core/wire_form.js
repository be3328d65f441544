// Wire form: the bytes of a value that JSON cannot express, packed and unpacked.
//
// A frame holds a reserved key, a JSON text in which objects with that key are *escapes*, and binary segments that the
// escapes refer to. `isola_anyio/codec/frame.py` describes the layout. All numbers are little-endian.

import {
  ArrayJoin,
  RegExpExec,
  RegExpReplace,
  StringCharCodeAt,
  TypeError,
  TypedArrayByteLength,
  TypedArrayLength,
  TypedArraySet,
  TypedArraySubarray,
  Uint8Array,
  apply,
  decodeURIComponent,
  escape,
  fromCharCode,
} from "isola:primordials";

export const MAGIC = 0xfe; // begins no UTF-8, and so no JSON text
const VERSION = 1;
const HEAD_BYTES = 12;
const CHUNK = 4096; // arguments to one call of fromCharCode

// --- typed arrays ------------------------------------------------------------------------------------------------

export const wireNames = { __proto__: null }; // of a typed array's class -> its name in an escape
export const typedArrayOf = { __proto__: null }; // name in an escape -> constructor
const name = (wire, constructor) => {
  if (typeof constructor !== "function") return;
  wireNames[constructor.name] = wire;
  typedArrayOf[wire] = constructor;
};
name("i1", Int8Array);
name("u1", Uint8ClampedArray);
name("u1", Uint8Array);
name("i2", Int16Array);
name("u2", Uint16Array);
name("i4", Int32Array);
name("u4", Uint32Array);
name("i8", BigInt64Array);
name("u8", BigUint64Array);
name("f2", typeof Float16Array === "function" ? Float16Array : undefined);
name("f4", Float32Array);
name("f8", Float64Array);
typedArrayOf.b1 = Uint8Array; // bool has no typed array and arrives as bytes of 0 and 1

// --- frames ------------------------------------------------------------------------------------------------------

export function frameSize(key, textBytes, segments) {
  let size = HEAD_BYTES + 4 * segments.length + key.length + textBytes;
  for (let i = 0; i < segments.length; i++) size = align(size) + TypedArrayByteLength(segments[i]);
  return size;
}

// `size` is that of frameSize.
export function pack(key, text, textBytes, segments, size) {
  const out = new Uint8Array(size);
  const count = segments.length;
  out[0] = MAGIC;
  out[1] = VERSION;
  out[2] = key.length;
  writeUint32(out, 4, textBytes);
  writeUint32(out, 8, count);
  let at = HEAD_BYTES;
  for (let i = 0; i < count; i++, at += 4) writeUint32(out, at, TypedArrayByteLength(segments[i]));
  at = writeUtf8(out, at, key);
  at = writeUtf8(out, at, text);
  for (let i = 0; i < count; i++) {
    at = align(at);
    TypedArraySet(out, segments[i], at);
    at += TypedArrayByteLength(segments[i]);
  }
  return out;
}

// The parts of a frame from the host, which is trusted; segments are views of `frame`.
export function unpack(frame) {
  const keyLength = frame[2];
  const textBytes = readUint32(frame, 4);
  const count = readUint32(frame, 8);
  if (frame[1] !== VERSION || frame[3] !== 0) throw new TypeError("$: a frame that this guest does not know");
  let at = HEAD_BYTES + 4 * count;
  const key = textOf(TypedArraySubarray(frame, at, (at += keyLength)));
  const text = textOf(TypedArraySubarray(frame, at, (at += textBytes)));
  const segments = [];
  for (let i = 0; i < count; i++) {
    const size = readUint32(frame, HEAD_BYTES + 4 * i);
    at = align(at);
    segments[i] = TypedArraySubarray(frame, at, at + size);
    at += size;
  }
  return { __proto__: null, key, text, segments };
}

function align(at) {
  return at + ((8 - (at % 8)) % 8);
}

function writeUint32(out, at, number) {
  out[at] = number;
  out[at + 1] = number >>> 8;
  out[at + 2] = number >>> 16;
  out[at + 3] = number >>> 24;
}

export function readUint32(bytes, at) {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

// --- UTF-8 -------------------------------------------------------------------------------------------------------

const oneByte = /[\0-\x7f]+/g;
const twoBytes = /[\x80-\u07ff]+/g;
const surrogates = /[\ud800-\udfff]+/g;
const notAscii = /[^\0-\x7f]/;

// Counted by the engine's regular expressions, ten times as fast as a loop. JSON text has no lone surrogates.
export function utf8Length(text) {
  const wide = RegExpReplace(oneByte, text, "");
  if (wide.length === 0) return text.length;
  const wider = RegExpReplace(twoBytes, wide, "");
  const widest = RegExpReplace(surrogates, wider, "");
  return text.length + wide.length + widest.length;
}

function writeUtf8(out, at, text) {
  for (let i = 0; i < text.length; i++) {
    let code = StringCharCodeAt(text, i);
    if (code < 0x80) {
      out[at++] = code;
      continue;
    }
    if (code < 0x800) {
      out[at++] = 0xc0 | (code >> 6);
    } else {
      if (code >= 0xd800 && code < 0xdc00) {
        code = 0x10000 + ((code - 0xd800) << 10) + (StringCharCodeAt(text, ++i) - 0xdc00);
        out[at++] = 0xf0 | (code >> 18);
        out[at++] = 0x80 | ((code >> 12) & 0x3f);
      } else {
        out[at++] = 0xe0 | (code >> 12);
      }
      out[at++] = 0x80 | ((code >> 6) & 0x3f);
    }
    out[at++] = 0x80 | (code & 0x3f);
  }
  return at;
}

export function textOf(utf8) {
  const length = TypedArrayLength(utf8);
  const chunks = [];
  for (let start = 0; start < length; start += CHUNK) {
    chunks[chunks.length] = apply(fromCharCode, null, TypedArraySubarray(utf8, start, start + CHUNK));
  }
  const text = ArrayJoin(chunks, "");
  return RegExpExec(notAscii, text) === null ? text : decodeURIComponent(escape(text));
}
