// How does a value become what crosses to the host, and what the host sends a value?
//
// The same wire form, limits and error texts as the host's `isola_anyio.codec`, whose modules give the reasons. Plain
// JSON stays a string, so that the engine converts it natively; only a value that JSON cannot say becomes bytes.
//
// `JSON.stringify` does the work, and asks our replacer for each value, which puts escapes in where it would lose
// something (it drops functions and symbols, and writes NaN, -0 and Map as something else) and knows where it is when
// something cannot cross. That takes less time than a walk of ours before it, and reads each member once, as a getter
// or a proxy may expect. `undefined` and `toJSON` follow `JSON.stringify`.
//
// Every built-in is captured here, before guest code can replace it.
export const codec = (() => {
  "use strict";

  const MAX_DEPTH = 500;
  const MAX_SAFE = Number.MAX_SAFE_INTEGER;
  const DIGITS_END = 1e21;
  const MAX_SAFE_BIG = 9007199254740991n; // this engine gets negative bigints wrong when it compares them with numbers
  const MAGIC = 0xfe;
  const VERSION = 1;
  const HEAD_BYTES = 12;
  const LONGEST_REFERENCE = 64; // a frame with one segment and a text of no more is a value that the segment is all of
  const KEY = "$";
  const MOST_KEYS = 64; // tried as the reserved one; a guess, for values that change while they are read
  const MAX_TAG = 40;
  const CHUNK = 4096; // arguments to one call of fromCharCode

  const { apply, construct, getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
  const bind = Function.prototype.bind;
  const uncurry = apply(bind, bind, [Function.prototype.call]);
  const { parse, stringify } = JSON;
  const { isArray } = Array;
  const { isView } = ArrayBuffer;
  const { keys: objectKeys, getOwnPropertySymbols, hasOwn } = Object;
  const $BigInt = BigInt;
  const $Number = Number;
  const $RangeError = RangeError;
  const $Set = Set;
  const $String = String;
  const $TypeError = TypeError;
  const $Uint8Array = Uint8Array;
  const $decodeURIComponent = decodeURIComponent;
  const $escape = escape;
  const { fromCharCode } = String;
  const objectPrototype = Object.prototype;
  const isPrototypeOf = uncurry(objectPrototype.isPrototypeOf);
  const isEnumerable = uncurry(objectPrototype.propertyIsEnumerable);
  const join = uncurry(Array.prototype.join);
  const charCodeAt = uncurry(String.prototype.charCodeAt);
  const indexOf = uncurry(String.prototype.indexOf);
  const slice = uncurry(String.prototype.slice);
  const startsWith = uncurry(String.prototype.startsWith);
  const padStart = uncurry(String.prototype.padStart);
  const numberToString = uncurry(Number.prototype.toString);
  const bigIntToString = uncurry(BigInt.prototype.toString);
  const booleanValueOf = uncurry(Boolean.prototype.valueOf);
  const symbolToString = uncurry(Symbol.prototype.toString);
  const exec = uncurry(RegExp.prototype.exec);
  const test = (regexp, text) => exec(regexp, text) !== null;
  const replace = uncurry(RegExp.prototype[Symbol.replace]);
  const setAdd = uncurry(Set.prototype.add);
  const setHas = uncurry(Set.prototype.has);
  const payloadLimits = new WeakSet();
  const weakSetAdd = uncurry(WeakSet.prototype.add);
  const weakSetHas = uncurry(WeakSet.prototype.has);

  const typedArrayPrototype = getPrototypeOf(Uint8Array.prototype);
  const getter = (prototype, name) => uncurry(getOwnPropertyDescriptor(prototype, name).get);
  const typedTag = getter(typedArrayPrototype, Symbol.toStringTag);
  const typedBuffer = getter(typedArrayPrototype, "buffer");
  const typedOffset = getter(typedArrayPrototype, "byteOffset");
  const typedBytes = getter(typedArrayPrototype, "byteLength");
  const typedLength = getter(typedArrayPrototype, "length");
  const typedSet = uncurry(typedArrayPrototype.set);
  const typedSubarray = uncurry(typedArrayPrototype.subarray);
  const viewBuffer = getter(DataView.prototype, "buffer");
  const viewOffset = getter(DataView.prototype, "byteOffset");
  const viewBytes = getter(DataView.prototype, "byteLength");
  const bufferBytes = getter(ArrayBuffer.prototype, "byteLength");
  const sharedBytes =
    typeof SharedArrayBuffer === "function" ? getter(SharedArrayBuffer.prototype, "byteLength") : bufferBytes;

  // Wire names of typed arrays; bool has no typed array and arrives as bytes of 0 and 1.
  const names = { __proto__: null };
  const makers = { __proto__: null };
  const name = (wire, maker) => {
    if (typeof maker !== "function") return;
    names[maker.name] = wire;
    makers[wire] = maker;
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
  makers.b1 = Uint8Array;

  // What cannot cross, and what to do about it.
  const refused = [];
  const refuse = (type, label, remedy) => {
    if (typeof type === "function") refused[refused.length] = { __proto__: null, prototype: type.prototype, label, remedy };
  };
  refuse(Map, "Map", "convert it with Object.fromEntries()");
  refuse(Set, "Set", "convert it to an array");
  refuse(WeakMap, "WeakMap", "convert it to an object");
  refuse(WeakSet, "WeakSet", "convert it to an array");
  refuse(typeof WeakRef === "function" ? WeakRef : undefined, "WeakRef", "send what it refers to");
  refuse(Promise, "Promise", "await it first");
  refuse(RegExp, "RegExp", "convert it to a string");
  refuse(Error, "Error", "convert it to a string");
  const iteratorPrototype = getPrototypeOf(getPrototypeOf([][Symbol.iterator]()));
  refused[refused.length] = { __proto__: null, prototype: iteratorPrototype, label: "Iterator", remedy: "convert it to an array" };
  const asyncIteratorPrototype = getPrototypeOf(getPrototypeOf(getPrototypeOf((async function* () {})())));
  refused[refused.length] = {
    __proto__: null,
    prototype: asyncIteratorPrototype,
    label: "AsyncIterator",
    remedy: "collect it into an array first",
  };
  const { toStringTag } = Symbol;
  const boxed = [Number.prototype, String.prototype, Boolean.prototype, BigInt.prototype, Symbol.prototype];

  // --- paths and errors -----------------------------------------------------------------------------------------

  const plainKey = /^[A-Za-z_$][A-Za-z0-9_$]*$/;

  function quoted(key) {
    const text = stringify(key);
    let out = "";
    for (let i = 0; i < text.length; i++) {
      const code = charCodeAt(text, i);
      out += code < 0x7f ? text[i] : "\\u" + padStart(numberToString(code, 16), 4, "0");
    }
    return out;
  }

  function formatStep(step) {
    if (typeof step === "number") return "[" + step + "]";
    if (step.length <= 40) return test(plainKey, step) ? "." + step : "[" + quoted(step) + "]";
    return "[" + slice(quoted(slice(step, 0, 40)), 0, -1) + '..."]';
  }

  function formatPath(steps) {
    let path = "$";
    for (let i = 0; i < steps.length; i++) {
      if (steps.length > 32 && i === 16) {
        path += "...";
        i = steps.length - 16;
      }
      path += formatStep(steps[i]);
    }
    return path;
  }

  // --- encoding -------------------------------------------------------------------------------------------------

  function isPlainNumber(value) {
    // Finite, no -0, and no integer that JSON would hand to Python as another int than it is.
    return value - value === 0 && (value !== 0 || 1 / value > 0) && value <= MAX_SAFE && value >= -MAX_SAFE;
  }

  // The lists and objects that are being written, outermost first, each with its name in the one before. Finished ones
  // stay behind the others until the next begins. A getter or a toJSON may encode something else meanwhile, from its own
  // `base` on; all of these are put back then.
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

  // Where what `holder` holds belongs in `open`.
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
      steps[steps.length] = isArray(open[i - 1]) ? $Number(name) : name;
    }
    return new Type(formatPath(steps) + ": " + reason);
  }

  function cannot(holder, key, label, remedy) {
    return failure($TypeError, holder, key, label + " is not a value that can cross; " + remedy);
  }

  // JSON.stringify asks this for each value it has read, and reads none twice. What is common comes first and costs no
  // call.
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
      if (open[i] === value) throw failure($TypeError, this, key, "the value contains itself; break the cycle");
    }
    if (at - base >= MAX_DEPTH) {
      throw failure($RangeError, this, key, "nested deeper than " + MAX_DEPTH + " levels; flatten it");
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
        if (value <= MAX_SAFE_BIG && value >= -MAX_SAFE_BIG) return $Number(value);
        return escaped("i" + bigIntToString(value, 16));
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
    // Integral, all that are left: an int as long as JavaScript itself writes them out in digits.
    if (value < DIGITS_END && value > -DIGITS_END) return escaped("i" + bigIntToString($BigInt(value), 16));
    return escaped("f" + value);
  }

  function escaped(payload) {
    escapes++;
    return { __proto__: null, [reserved]: payload };
  }

  // What stands for an object of a class; itself when it crosses with its members.
  function instance(holder, key, value) {
    if (isView(value)) return view(holder, key, value);
    const size = byteLengthOf(value);
    if (size >= 0) return escaped(segment(holder, key, "b", value, 0, size));
    for (let i = 0; i < refused.length; i++) {
      if (isPrototypeOf(refused[i].prototype, value)) throw cannot(holder, key, refused[i].label, refused[i].remedy);
    }
    for (let i = 0; i < boxed.length; i++) {
      if (isPrototypeOf(boxed[i], value)) return unboxed(holder, key, value, boxed[i]);
    }
    checkInside(holder, key, value);
    return value;
  }

  // JSON.stringify sees through the objects that wrap a primitive.
  function unboxed(holder, key, value, prototype) {
    if (prototype === boxed[0]) return leaf(holder, key, $Number(value));
    if (prototype === boxed[1]) return $String(value);
    if (prototype === boxed[2]) return booleanValueOf(value);
    throw cannot(holder, key, prototype === boxed[3] ? "BigInt object" : "Symbol object", "send the primitive");
  }

  function checkSymbols(holder, key, value) {
    const symbols = getOwnPropertySymbols(value);
    for (let i = 0; i < symbols.length; i++) {
      if (isEnumerable(value, symbols[i])) {
        const name = symbolToString(symbols[i]);
        throw failure($TypeError, holder, key, "the key " + name + " is a symbol; keys must be strings");
      }
    }
    checkInside(holder, key, value); // Math has its name as a member of its own
  }

  // What names itself and shows no member keeps what it has inside, where nobody can fetch it.
  function checkInside(holder, key, value) {
    if (objectKeys(value).length !== 0) return;
    const tag = value[toStringTag];
    if (typeof tag !== "string") return;
    const remedy = tag === "URLSearchParams" ? "convert it with String()" : "send what you need of it";
    throw cannot(holder, key, slice(tag, 0, MAX_TAG), remedy);
  }

  function segment(holder, key, code, buffer, offset, length) {
    segments ??= [];
    const at = segments.length;
    try {
      segments[at] = new $Uint8Array(buffer, offset, length);
    } catch {
      throw cannot(holder, key, "a buffer that was transferred", "send it before, or a copy");
    }
    return code + at;
  }

  function view(holder, key, value) {
    const tag = typedTag(value);
    if (tag === undefined) {
      const data = segment(holder, key, "t", viewBuffer(value), viewOffset(value), viewBytes(value));
      return escaped(data + ":u1:" + viewBytes(value));
    }
    const code = tag === "Uint8Array" ? "b" : "t";
    const data = segment(holder, key, code, typedBuffer(value), typedOffset(value), typedBytes(value));
    return escaped(code === "b" ? data : data + ":" + names[tag] + ":" + typedLength(value));
  }

  function byteLengthOf(value) {
    try {
      return bufferBytes(value);
    } catch {
      try {
        return sharedBytes(value);
      } catch {
        return -1;
      }
    }
  }

  // Where the string that begins at `start` ends.
  function endOfString(text, start) {
    for (let end = start; ; ) {
      end = indexOf(text, '"', end + 1);
      let at = end;
      while (text[at - 1] === "\\") at--;
      if ((end - at) % 2 === 0) return end;
    }
  }

  // A reserved key that no key of the text starts with but those of its escapes; the present one if that is so.
  function freeKey(text) {
    const taken = new $Set();
    let found = 0;
    for (let at = indexOf(text, '"' + KEY); at >= 0; at = indexOf(text, '"' + KEY, at + 1)) {
      const end = endOfString(text, at);
      if (text[end + 1] !== ":") continue;
      const name = slice(text, at + 1, end);
      if (startsWith(name, reserved)) found++;
      const next = indexOf(name, KEY, 1);
      setAdd(taken, slice(name, 1, next < 0 ? undefined : next));
    }
    if (found === escapes) return reserved;
    let number = 0;
    while (setHas(taken, $String(number))) number++;
    return KEY + number + KEY;
  }

  // The value is written again only if its escapes need another key, so that each member is read once: a getter or a
  // proxy may give something else the next time.
  function written(value, maxBytes) {
    for (let i = 0; i < MOST_KEYS; i++) {
      escapes = 0;
      segments = null;
      depth = base;
      const text = stringify(value, replacer);
      if (escapes === 0) return sized(text ?? "null", maxBytes);
      const key = freeKey(text);
      if (key === reserved) return pack(text, maxBytes);
      reserved = key;
    }
    throw new $TypeError("$: an object whose keys change is not a value that can cross; convert it to a plain object");
  }

  function encode(value, maxBytes) {
    if (typeof value !== "object" || value === null) {
      const isSimple = typeof value === "string" || typeof value === "boolean" || value === null;
      if (isSimple || (typeof value === "number" && isPlainNumber(value))) return sized(stringify(value), maxBytes);
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

  function sized(text, maxBytes) {
    // A character is at most three bytes; most texts need no counting.
    if (text.length * 3 > maxBytes) checkSize(utf8Length(text) - (text[0] === '"' ? 2 : 0), maxBytes);
    return text;
  }

  function checkSize(size, maxBytes) {
    if (!(size > maxBytes)) return; // there may be no limit
    const error = new $RangeError("$: the value takes " + size + " bytes, over the limit of " + maxBytes);
    weakSetAdd(payloadLimits, error);
    throw error;
  }

  function pack(text, maxBytes) {
    const textBytes = utf8Length(text);
    const count = segments === null ? 0 : segments.length;
    let size = HEAD_BYTES + 4 * count + reserved.length + textBytes;
    for (let i = 0; i < count; i++) size = align(size) + typedBytes(segments[i]);
    // Bytes or a buffer by itself count what they hold.
    checkSize(count === 1 && textBytes <= LONGEST_REFERENCE ? typedBytes(segments[0]) : size, maxBytes);
    const out = new $Uint8Array(size);
    out[0] = MAGIC;
    out[1] = VERSION;
    out[2] = reserved.length;
    writeUint32(out, 4, textBytes);
    writeUint32(out, 8, count);
    let at = HEAD_BYTES;
    for (let i = 0; i < count; i++, at += 4) writeUint32(out, at, typedBytes(segments[i]));
    at = writeUtf8(out, at, reserved);
    at = writeUtf8(out, at, text);
    for (let i = 0; i < count; i++) {
      at = align(at);
      typedSet(out, segments[i], at);
      at += typedBytes(segments[i]);
    }
    return out;
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

  function readUint32(bytes, at) {
    return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
  }

  const oneByte = /[\0-\x7f]+/g;
  const twoBytes = /[\x80-\u07ff]+/g;
  const surrogates = /[\ud800-\udfff]+/g;

  // Counted by the engine's regular expressions, ten times as fast as a loop. JSON text has no lone surrogates.
  function utf8Length(text) {
    const wide = replace(oneByte, text, "");
    if (wide.length === 0) return text.length;
    const wider = replace(twoBytes, wide, "");
    const widest = replace(surrogates, wider, "");
    return text.length + wide.length + widest.length;
  }

  function writeUtf8(out, at, text) {
    for (let i = 0; i < text.length; i++) {
      let code = charCodeAt(text, i);
      if (code < 0x80) {
        out[at++] = code;
        continue;
      }
      if (code < 0x800) {
        out[at++] = 0xc0 | (code >> 6);
      } else {
        if (code >= 0xd800 && code < 0xdc00) {
          code = 0x10000 + ((code - 0xd800) << 10) + (charCodeAt(text, ++i) - 0xdc00);
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

  // --- decoding -------------------------------------------------------------------------------------------------

  const notAscii = /[^\0-\x7f]/;

  function textOf(bytes) {
    const length = typedLength(bytes);
    const runs = [];
    for (let start = 0; start < length; start += CHUNK) {
      runs[runs.length] = apply(fromCharCode, null, typedSubarray(bytes, start, start + CHUNK));
    }
    const text = join(runs, "");
    return test(notAscii, text) ? $decodeURIComponent($escape(text)) : text;
  }

  function decode(body) {
    if (typeof body === "string") return parse(body);
    if (body[0] !== MAGIC) return parse(textOf(body));
    const keyLength = body[2];
    const textBytes = readUint32(body, 4);
    const count = readUint32(body, 8);
    if (body[1] !== VERSION || body[3] !== 0) throw new $TypeError("$: a frame that this guest does not know");
    let at = HEAD_BYTES + 4 * count;
    const key = textOf(typedSubarray(body, at, (at += keyLength)));
    const text = textOf(typedSubarray(body, at, (at += textBytes)));
    const segments = [];
    for (let i = 0; i < count; i++) {
      const size = readUint32(body, HEAD_BYTES + 4 * i);
      at = align(at);
      segments[i] = typedSubarray(body, at, at + size);
      at += size;
    }
    return revive(parse(text), key, segments);
  }

  // Put what the escapes mean in their place.
  function revive(root, key, segments) {
    const top = [root];
    const left = [top];
    while (left.length !== 0) {
      const holder = left[left.length - 1];
      left.length--;
      const keys = isArray(holder) ? null : objectKeys(holder);
      const count = keys === null ? holder.length : keys.length;
      for (let i = 0; i < count; i++) {
        const at = keys === null ? i : keys[i];
        const item = holder[at];
        if (typeof item !== "object" || item === null) continue;
        const payload = isArray(item) ? undefined : payloadOf(item, key);
        if (payload === undefined) left[left.length] = item;
        else holder[at] = restore(payload, segments);
      }
    }
    return top[0];
  }

  function payloadOf(item, key) {
    const payload = hasOwn(item, key) ? item[key] : undefined;
    return typeof payload === "string" && objectKeys(item).length === 1 ? payload : undefined;
  }

  function copyOf(segment) {
    const out = new $Uint8Array(typedLength(segment));
    typedSet(out, segment);
    return out;
  }

  function restore(payload, segments) {
    const rest = slice(payload, 1);
    switch (payload[0]) {
      case "b":
        return copyOf(segments[rest]);
      case "t": {
        const end = indexOf(rest, ":");
        const wire = slice(rest, end + 1, indexOf(rest, ":", end + 1));
        const maker = makers[wire];
        if (maker === undefined) throw new $TypeError("$: this engine has no typed array for " + wire);
        const data = copyOf(segments[slice(rest, 0, end)]);
        return maker === $Uint8Array ? data : construct(maker, [typedBuffer(data)]);
      }
      case "i":
        return rest[0] === "-" ? -$BigInt("0x" + slice(rest, 1)) : $BigInt("0x" + rest);
      case "I":
        return bigIntOf(segments[rest]);
      case "J":
        return -bigIntOf(segments[rest]);
      case "f":
        return rest === "nan" ? NaN : rest === "inf" ? Infinity : rest === "-inf" ? -Infinity : $Number(rest);
      default:
        throw new $TypeError("$: an escape that means nothing: " + payload);
    }
  }

  function bigIntOf(bytes) {
    const digits = [];
    const length = typedLength(bytes);
    for (let i = 0; i < length; i++) digits[i] = padStart(numberToString(bytes[length - 1 - i], 16), 2, "0");
    return $BigInt("0x" + join(digits, ""));
  }

  return {
    __proto__: null,
    encode,
    decode,
    isPayloadLimit: (error) => typeof error === "object" && error !== null && weakSetHas(payloadLimits, error),
  };
})();
