// Encoding: `TextEncoder`, `TextDecoder`, `atob` and `btoa`. (Encoding standard: UTF-8, UTF-16, windows-1252.)
//
// Loops in the guest take a quarter of a microsecond a byte, so long input goes through functions that the engine has
// in C: base64, URI coding and `unescape` together convert between text and bytes ten times as fast.

import { StringToWellFormed, TypedArrayBuffer, TypedArrayByteLength, TypedArrayByteOffset, isView } from "isola:primordials";

const SHORT = 48; // up to this many characters a loop is faster than the engine's functions; measured roughly
const CHUNK = 8192;
const ascii = /^[\x00-\x7f]*$/;
const { atob: fromBinary, btoa: toBinary } = globalThis;
const uriEncode = encodeURIComponent;
const uriDecode = decodeURIComponent;
const escapeText = escape;
const unescapeText = unescape;
const fromBase64 = Uint8Array.fromBase64.bind(Uint8Array);
const toBase64 = Function.prototype.call.bind(Uint8Array.prototype.toBase64);
const bufferLength = Function.prototype.call.bind(Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, "byteLength").get);

export function encodeUtf8(text) {
  const clean = StringToWellFormed(text);
  if (clean.length > SHORT) {
    return fromBase64(toBinary(ascii.test(clean) ? clean : unescapeText(uriEncode(clean))));
  }
  const bytes = new Uint8Array(clean.length * 3);
  const { written } = encodeInto(clean, bytes);
  return bytes.slice(0, written);
}

function encodeInto(source, target) {
  let written = 0;
  let read = 0;
  while (read < source.length) {
    const point = source.codePointAt(read);
    const size = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    if (written + size > target.length) break;
    if (size === 1) {
      target[written++] = point;
    } else {
      target[written++] = size === 2 ? 0xc0 | (point >> 6) : size === 3 ? 0xe0 | (point >> 12) : 0xf0 | (point >> 18);
      for (let shift = (size - 2) * 6; shift >= 0; shift -= 6) target[written++] = 0x80 | ((point >> shift) & 0x3f);
    }
    read += size === 4 ? 2 : 1;
  }
  return { read, written };
}

class TextEncoder {
  get encoding() {
    return "utf-8";
  }

  encode(input = "") {
    return encodeUtf8(String(input));
  }

  encodeInto(source, destination) {
    if (!(destination instanceof Uint8Array)) throw new TypeError("encodeInto: the second argument must be a Uint8Array");
    return encodeInto(StringToWellFormed(String(source)), destination);
  }
}

const labels = {
  __proto__: null,
  "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
  "utf-16le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
  "utf-16be": "unicodefffe utf-16be",
  "windows-1252":
    "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 iso_8859-1 " +
    "iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252",
};

function encodingOf(label) {
  const wanted = label.replace(/^[\t\n\f\r ]+|[\t\n\f\r ]+$/g, "").toLowerCase();
  for (const name in labels) if (labels[name].split(" ").includes(wanted)) return name;
  throw new RangeError(`TextDecoder: the encoding ${JSON.stringify(label)} is not supported`);
}

// The characters of windows-1252 at 0x80 to 0x9f; the others are those of latin-1.
const windows1252 = "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ";

class TextDecoder {
  #encoding;
  #fatal;
  #ignoreBOM;
  #kept = []; // the first bytes of a character, until the others come
  #started = false; // a byte order mark can no longer come

  constructor(label = "utf-8", options = {}) {
    this.#encoding = encodingOf(String(label));
    this.#fatal = Boolean(options?.fatal);
    this.#ignoreBOM = Boolean(options?.ignoreBOM);
  }

  get encoding() {
    return this.#encoding;
  }
  get fatal() {
    return this.#fatal;
  }
  get ignoreBOM() {
    return this.#ignoreBOM;
  }

  decode(input, options = {}) {
    const more = Boolean(options?.stream);
    let bytes = input === undefined ? new Uint8Array(0) : viewOf(input);
    if (this.#kept.length > 0) {
      const joined = new Uint8Array(this.#kept.length + bytes.length);
      joined.set(this.#kept);
      joined.set(bytes, this.#kept.length);
      bytes = joined;
      this.#kept = [];
    }
    let out;
    try {
      out = this.#decode(bytes, more);
    } catch (error) {
      this.#started = false;
      this.#kept = [];
      throw error;
    }
    if (!this.#started && out !== "") {
      this.#started = true;
      if (!this.#ignoreBOM && this.#encoding !== "windows-1252" && out[0] === "\ufeff") out = out.slice(1);
    }
    if (!more) this.#started = false;
    return out;
  }

  #decode(bytes, more) {
    if (this.#encoding === "windows-1252") {
      return binaryText(bytes).replace(/[\x80-\x9f]/g, (c) => windows1252[c.charCodeAt(0) - 0x80]);
    }
    if (this.#encoding === "utf-8") {
      const complete = more ? bytes.length - unfinished(bytes) : bytes.length;
      this.#kept = [...bytes.subarray(complete)];
      return decodeUtf8(bytes.subarray(0, complete), this.#fatal);
    }
    return this.#decodeUtf16(bytes, more);
  }

  #decodeUtf16(bytes, more) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const little = this.#encoding === "utf-16le";
    let end = bytes.length - (bytes.length % 2);
    if (more && end >= 2) {
      const last = view.getUint16(end - 2, little);
      if (last >= 0xd800 && last < 0xdc00) end -= 2;
    }
    const units = [];
    let out = "";
    for (let at = 0; at < end; at += 2) {
      units.push(view.getUint16(at, little));
      if (units.length === CHUNK) out += String.fromCharCode.apply(undefined, units.splice(0));
    }
    out += String.fromCharCode.apply(undefined, units);
    const rest = bytes.subarray(end);
    if (more) this.#kept = [...rest];
    const broken = !more && rest.length > 0;
    if (broken || !out.isWellFormed()) {
      if (this.#fatal) throw new TypeError("The encoded data was not valid for encoding " + this.#encoding);
      out = out.toWellFormed() + (broken ? "\ufffd" : "");
    }
    return out;
  }
}

function viewOf(input) {
  if (isView(input)) {
    if (input instanceof DataView) return new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
    return new Uint8Array(TypedArrayBuffer(input), TypedArrayByteOffset(input), TypedArrayByteLength(input));
  }
  try {
    bufferLength(input);
    return new Uint8Array(input);
  } catch {
    throw new TypeError("TextDecoder.decode: the argument must be an ArrayBuffer or a view of one");
  }
}

// A string with one character a byte, its code the byte's value.
function binaryText(bytes) {
  if (bytes.length > SHORT) return fromBinary(toBase64(bytes));
  return String.fromCharCode.apply(undefined, bytes);
}

export function decodeUtf8(bytes, fatal) {
  const binary = binaryText(bytes);
  if (ascii.test(binary)) return binary;
  try {
    return uriDecode(escapeText(binary));
  } catch {
    if (fatal) throw new TypeError("The encoded data was not valid for encoding utf-8");
    return repairUtf8(bytes);
  }
}

// The length of the UTF-8 sequence that begins with this byte, 0 for none, and the range of its second byte.
function sequence(lead) {
  if (lead < 0x80) return [1, 0, 0];
  if (lead >= 0xc2 && lead <= 0xdf) return [2, 0x80, 0xbf];
  if (lead >= 0xe0 && lead <= 0xef) return [3, lead === 0xe0 ? 0xa0 : 0x80, lead === 0xed ? 0x9f : 0xbf];
  if (lead >= 0xf0 && lead <= 0xf4) return [4, lead === 0xf0 ? 0x90 : 0x80, lead === 0xf4 ? 0x8f : 0xbf];
  return [0, 0, 0];
}

// The number of bytes at the end that are the beginning of a character.
function unfinished(bytes) {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const at = bytes.length - back;
    const [size, low, high] = sequence(bytes[at]);
    if (size === 0 && bytes[at] >= 0x80 && bytes[at] < 0xc0) continue;
    if (size <= back) return 0;
    return back === 1 || (bytes[at + 1] >= low && bytes[at + 1] <= high) ? back : 0;
  }
  return 0;
}

// Decode with one U+FFFD for each maximal subpart that is not valid UTF-8.
function repairUtf8(bytes) {
  let out = "";
  let units = [];
  for (let at = 0; at < bytes.length; ) {
    const [size, low, high] = sequence(bytes[at]);
    let point = size === 1 ? bytes[at] : size === 2 ? bytes[at] & 0x1f : size === 3 ? bytes[at] & 0x0f : bytes[at] & 0x07;
    let got = 1;
    while (got < size) {
      const next = bytes[at + got];
      const valid = got === 1 ? next >= low && next <= high : next >= 0x80 && next <= 0xbf;
      if (!valid) break;
      point = (point << 6) | (next & 0x3f);
      got++;
    }
    if (size === 0 || got < size) units.push(0xfffd);
    else if (point > 0xffff) units.push(0xd800 + ((point - 0x10000) >> 10), 0xdc00 + ((point - 0x10000) & 0x3ff));
    else units.push(point);
    at += got;
    if (units.length >= CHUNK) {
      out += String.fromCharCode.apply(undefined, units);
      units = [];
    }
  }
  return out + String.fromCharCode.apply(undefined, units);
}

// The engine's own functions take no argument for the string "undefined".
export function atob(data) {
  if (arguments.length === 0) throw new TypeError("atob: 1 argument required");
  return fromBinary(data);
}

export function btoa(data) {
  if (arguments.length === 0) throw new TypeError("btoa: 1 argument required");
  return toBinary(data);
}

for (const type of [TextEncoder, TextDecoder]) {
  Object.defineProperty(type.prototype, Symbol.toStringTag, { value: type.name, configurable: true });
}

export { TextDecoder, TextEncoder };
