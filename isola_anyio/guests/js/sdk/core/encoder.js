// Encoder: a value to JSON text, or to the bytes of a frame where JSON would lose something.
//
// `JSON.stringify` does the work and asks our replacer for each value, which puts escapes in where JSON would lose
// something (JSON drops functions and symbols, and writes NaN, -0 and Map as something else) and knows the path of a
// value that cannot cross. That takes less time than a walk of ours before it, and reads each member once, as a getter
// or a proxy may expect. `undefined` and `toJSON` follow `JSON.stringify`.

import {
  ArrayBufferByteLength,
  BigInt,
  BigIntToString,
  BooleanValueOf,
  DataViewBuffer,
  DataViewByteLength,
  DataViewByteOffset,
  Number,
  RangeError,
  Set,
  SetAdd,
  SetHas,
  SharedArrayBufferByteLength,
  String,
  StringIndexOf,
  StringSlice,
  StringStartsWith,
  SymbolToString,
  TypeError,
  TypedArrayBuffer,
  TypedArrayByteLength,
  TypedArrayByteOffset,
  TypedArrayLength,
  TypedArrayTag,
  Uint8Array,
  WeakSet,
  WeakSetAdd,
  WeakSetHas,
  getOwnPropertySymbols,
  getPrototypeOf,
  isArray,
  isEnumerable,
  isPrototypeOf,
  isView,
  jsonStringify,
  objectPrototype,
} from "isola:primordials";
import { refusalOf, refusalOfOpaque } from "isola:uncrossable";
import { formatPath } from "isola:value_path";
import { frameSize, pack, utf8Length, wireNames } from "isola:wire_form";

const MAX_DEPTH = 500;
const MAX_SAFE = Number.MAX_SAFE_INTEGER;
const MAX_SAFE_BIG = 9007199254740991n; // this engine gets negative bigints wrong when it compares them with numbers
const DIGITS_END = 1e21; // from here on JavaScript writes a number with an exponent
const LONGEST_REFERENCE = 64; // bytes of the text of a frame whose value is nothing but its one segment
const KEY = "$";
const MOST_KEYS = 64; // reserved keys tried, for a value that changes while it is read; a guess

const numberPrototype = Number.prototype;
const stringPrototype = String.prototype;
const booleanPrototype = Boolean.prototype;
const bigIntPrototype = BigInt.prototype;
const symbolPrototype = Symbol.prototype;

const noSegments = [];
const payloadLimits = new WeakSet(); // errors about the size of a value

// The lists and objects that are being written, outermost first, each with its key in the one before. Entries behind
// `depth` are of finished ones, until the next one overwrites them. A getter or a toJSON may call `encode` meanwhile:
// the inner call uses the entries from its own `base` on, and all the variables below are restored after it.
const open = [];
const openKeys = [];
for (let i = 0; i <= MAX_DEPTH; i++) open[i] = openKeys[i] = null;
let busy = false;
let base = 0;
let depth = 0;
let deepest = 0;
let reserved = KEY; // the key of escapes
let escapes = 0;
let segments = null;

export function encode(value, maxBytes) {
  if (typeof value !== "object" || value === null) {
    const isSimple = typeof value === "string" || typeof value === "boolean" || value === null;
    if (isSimple || (typeof value === "number" && isPlainNumber(value))) return sized(jsonStringify(value), maxBytes);
  }
  if (busy) return encodeMeanwhile(value, maxBytes);
  busy = true;
  try {
    return written(value, maxBytes);
  } finally {
    while (deepest > 0) open[--deepest] = null;
    reserved = KEY;
    depth = 0;
    busy = false;
  }
}

// Whether `encode` threw this because the value is larger than `maxBytes`.
export function isPayloadLimit(error) {
  return typeof error === "object" && error !== null && WeakSetHas(payloadLimits, error);
}

function encodeMeanwhile(value, maxBytes) {
  const outer = { __proto__: null, base, depth, reserved, escapes, segments };
  base = depth;
  reserved = KEY;
  try {
    return written(value, maxBytes);
  } finally {
    ({ base, depth, reserved, escapes, segments } = outer);
  }
}

// The value is written a second time only if its escapes need another key, so that each member is read once: a getter
// or a proxy may give something else the next time.
function written(value, maxBytes) {
  for (let i = 0; i < MOST_KEYS; i++) {
    escapes = 0;
    segments = null;
    depth = base;
    const text = jsonStringify(value, replacer);
    if (escapes === 0) return sized(text ?? "null", maxBytes);
    const key = freeKey(text);
    if (key === reserved) return packed(text, maxBytes);
    reserved = key;
  }
  throw new TypeError("$: an object whose keys change is not a value that can cross; convert it to a plain object");
}

// --- sizes -------------------------------------------------------------------------------------------------------

function sized(text, maxBytes) {
  // A character is at most three bytes; most texts need no counting.
  if (text.length * 3 > maxBytes) checkSize(utf8Length(text) - (text[0] === '"' ? 2 : 0), maxBytes);
  return text;
}

function packed(text, maxBytes) {
  const parts = segments ?? noSegments;
  const textBytes = utf8Length(text);
  const size = frameSize(reserved, textBytes, parts);
  // A value that is nothing but bytes, or a buffer, counts what it holds, without the frame around it.
  const isBuffer = parts.length === 1 && textBytes <= LONGEST_REFERENCE;
  checkSize(isBuffer ? TypedArrayByteLength(parts[0]) : size, maxBytes);
  return pack(reserved, text, textBytes, parts, size);
}

function checkSize(size, maxBytes) {
  if (!(size > maxBytes)) return; // `maxBytes` is undefined where there is no limit
  const error = new RangeError("$: the value takes " + size + " bytes, over the limit of " + maxBytes);
  WeakSetAdd(payloadLimits, error);
  throw error;
}

// --- values ------------------------------------------------------------------------------------------------------

function isPlainNumber(value) {
  // Finite, not -0, and not an integer outside the safe range, which JSON would hand to Python as another int.
  return value - value === 0 && (value !== 0 || 1 / value > 0) && value <= MAX_SAFE && value >= -MAX_SAFE;
}

// JSON.stringify calls this for each value, which it has read once. Common types come first and cost no further call.
function replacer(key, value) {
  const type = typeof value;
  if (type === "string" || (type === "number" && (value | 0) === value && value !== 0)) return value;
  if (type !== "object") return leaf(this, key, value);
  if (value === null) return null;
  const prototype = getPrototypeOf(value);
  if (prototype === objectPrototype || prototype === null) {
    if (getOwnPropertySymbols(value).length !== 0) checkSymbols(this, key, value);
  } else if (!isArray(value)) {
    const crossing = instance(this, key, value);
    if (crossing !== value) return crossing;
    if (getOwnPropertySymbols(value).length !== 0) checkSymbols(this, key, value);
  }
  let at = depth;
  while (at > base && open[at - 1] !== this) at--;
  for (let i = base; i < at; i++) {
    if (open[i] === value) throw failure(TypeError, this, key, "the value contains itself; break the cycle");
  }
  if (at - base >= MAX_DEPTH) {
    throw failure(RangeError, this, key, "nested deeper than " + MAX_DEPTH + " levels; flatten it");
  }
  open[at] = value;
  openKeys[at] = key;
  depth = at + 1;
  if (depth > deepest) deepest = depth;
  return value;
}

function leaf(holder, key, value) {
  switch (typeof value) {
    case "string":
    case "boolean":
    case "undefined":
      return value;
    case "number":
      return isPlainNumber(value) ? value : oddNumber(value);
    case "bigint":
      if (value <= MAX_SAFE_BIG && value >= -MAX_SAFE_BIG) return Number(value);
      return escaped("i" + BigIntToString(value, 16));
    case "function":
      throw cannot(holder, key, "function", "send what it returns");
    default:
      throw cannot(holder, key, "symbol", "convert it to a string");
  }
}

function oddNumber(value) {
  if (value !== value) return escaped("fnan");
  if (value - value !== 0) return escaped(value > 0 ? "finf" : "f-inf");
  if (value === 0) return escaped("f-0.0");
  // Only integers outside the safe range are left: an int as long as JavaScript writes them in digits, else a float.
  if (value < DIGITS_END && value > -DIGITS_END) return escaped("i" + BigIntToString(BigInt(value), 16));
  return escaped("f" + value);
}

function escaped(payload) {
  escapes++;
  return { __proto__: null, [reserved]: payload };
}

// What is written for an instance of a class; the instance itself when it crosses with its members.
function instance(holder, key, value) {
  if (isView(value)) return view(holder, key, value);
  const size = byteLengthOf(value);
  if (size >= 0) return escaped(segment(holder, key, "b", value, 0, size));
  const refusal = refusalOf(value);
  if (refusal !== undefined) throw cannot(holder, key, refusal.label, refusal.remedy);
  // JSON.stringify sees through objects that wrap a primitive.
  if (isPrototypeOf(numberPrototype, value)) return leaf(holder, key, Number(value));
  if (isPrototypeOf(stringPrototype, value)) return String(value);
  if (isPrototypeOf(booleanPrototype, value)) return BooleanValueOf(value);
  if (isPrototypeOf(bigIntPrototype, value)) throw cannot(holder, key, "BigInt object", "send the primitive");
  if (isPrototypeOf(symbolPrototype, value)) throw cannot(holder, key, "Symbol object", "send the primitive");
  checkOpaque(holder, key, value);
  return value;
}

function checkSymbols(holder, key, value) {
  const symbols = getOwnPropertySymbols(value);
  for (let i = 0; i < symbols.length; i++) {
    if (isEnumerable(value, symbols[i])) {
      const name = SymbolToString(symbols[i]);
      throw failure(TypeError, holder, key, "the key " + name + " is a symbol; keys must be strings");
    }
  }
  checkOpaque(holder, key, value); // Math has its toStringTag as a member of its own
}

function checkOpaque(holder, key, value) {
  const refusal = refusalOfOpaque(value);
  if (refusal !== undefined) throw cannot(holder, key, refusal.label, refusal.remedy);
}

// --- buffers -----------------------------------------------------------------------------------------------------

function segment(holder, key, code, buffer, offset, length) {
  segments ??= [];
  const at = segments.length;
  try {
    segments[at] = new Uint8Array(buffer, offset, length);
  } catch {
    throw cannot(holder, key, "a buffer that was transferred", "send it before, or a copy");
  }
  return code + at;
}

function view(holder, key, value) {
  const tag = TypedArrayTag(value);
  if (tag === undefined) {
    const size = DataViewByteLength(value);
    return escaped(segment(holder, key, "t", DataViewBuffer(value), DataViewByteOffset(value), size) + ":u1:" + size);
  }
  const code = tag === "Uint8Array" ? "b" : "t";
  const data = segment(holder, key, code, TypedArrayBuffer(value), TypedArrayByteOffset(value), TypedArrayByteLength(value));
  return escaped(code === "b" ? data : data + ":" + wireNames[tag] + ":" + TypedArrayLength(value));
}

// The length of an ArrayBuffer or a SharedArrayBuffer; -1 for anything else.
function byteLengthOf(value) {
  try {
    return ArrayBufferByteLength(value);
  } catch {
    try {
      return SharedArrayBufferByteLength(value);
    } catch {
      return -1;
    }
  }
}

// --- errors ------------------------------------------------------------------------------------------------------

// The index in `open` of what `holder` holds.
function depthIn(holder) {
  let at = depth;
  while (at > base && open[at - 1] !== holder) at--;
  return at;
}

function failure(Type, holder, key, reason) {
  const last = depthIn(holder);
  const steps = [];
  for (let i = base + 1; i <= last; i++) {
    const name = i === last ? key : openKeys[i];
    steps[steps.length] = isArray(open[i - 1]) ? Number(name) : name;
  }
  return new Type(formatPath(steps) + ": " + reason);
}

function cannot(holder, key, label, remedy) {
  return failure(TypeError, holder, key, label + " is not a value that can cross; " + remedy);
}

// --- the reserved key --------------------------------------------------------------------------------------------

// The end of the string that begins at `start`: its closing quote.
function endOfString(text, start) {
  for (let end = start; ; ) {
    end = StringIndexOf(text, '"', end + 1);
    let at = end;
    while (text[at - 1] === "\\") at--;
    if ((end - at) % 2 === 0) return end;
  }
}

// A reserved key with which no key of the text begins, but those of its escapes: the present one if that holds for it.
function freeKey(text) {
  const taken = new Set();
  let found = 0;
  for (let at = StringIndexOf(text, '"' + KEY); at >= 0; at = StringIndexOf(text, '"' + KEY, at + 1)) {
    const end = endOfString(text, at);
    if (text[end + 1] !== ":") continue;
    const name = StringSlice(text, at + 1, end);
    if (StringStartsWith(name, reserved)) found++;
    const next = StringIndexOf(name, KEY, 1);
    SetAdd(taken, StringSlice(name, 1, next < 0 ? undefined : next));
  }
  if (found === escapes) return reserved;
  let number = 0;
  while (SetHas(taken, String(number))) number++;
  return KEY + number + KEY;
}
