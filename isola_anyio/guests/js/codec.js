// How does a value become what crosses to the host, and what the host sends a value?
//
// The same wire form, limits and error texts as the host's `isola_anyio.codec`, whose modules give the reasons. Plain
// JSON stays a string, so that the engine converts it natively; only a value that JSON cannot say becomes bytes.
//
// One walk looks whether `JSON.stringify` would lose anything (it drops functions and symbols, and writes NaN, -0 and
// Map as something else); almost always it would not, and does the work. Else a second walk copies the value with
// escapes, and knows where it is when something cannot cross. `undefined` and `toJSON` follow `JSON.stringify`.
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
  const WALK_DEPTH = 60; // recursion is faster, and safe up to here
  const KEY = "$";
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

  // Whether JSON.stringify loses nothing of an object; "don't know" is no.
  function isPlain(value, depth) {
    if (depth > WALK_DEPTH || typeof value.toJSON === "function") return false;
    if (isArray(value)) {
      for (let i = 0; i < value.length; i++) {
        const item = value[i];
        switch (typeof item) {
          case "string":
          case "boolean":
          case "undefined":
            break;
          case "number":
            if (!isPlainNumber(item)) return false;
            break;
          case "object":
            if (item !== null && !isPlain(item, depth + 1)) return false;
            break;
          default:
            return false;
        }
      }
      return true;
    }
    const prototype = getPrototypeOf(value);
    if (prototype !== objectPrototype && prototype !== null) return false;
    if (getOwnPropertySymbols(value).length !== 0) return false;
    for (const key in value) {
      const item = value[key];
      switch (typeof item) {
        case "string":
        case "boolean":
        case "undefined":
          break;
        case "number":
          if (!isPlainNumber(item)) return false;
          break;
        case "object":
          if (item !== null && !isPlain(item, depth + 1)) return false;
          break;
        default:
          return false;
      }
    }
    return true;
  }

  const KEY_TAKEN = { __proto__: null };

  // Copies a value with escapes in it. Iterative: the engine's stack may be nearly used up, and running out of it is
  // not always an exception.
  class Rewriter {
    constructor(key) {
      this.key = key;
      this.escapes = 0;
      this.segments = [];
      this.open = []; // {source, keys, index, out} of each list and object that is being copied, outermost first
    }

    path() {
      const steps = [];
      for (let i = 0; i < this.open.length; i++) {
        const { keys, index } = this.open[i];
        steps[i] = keys === null ? index : keys[index];
      }
      return formatPath(steps);
    }

    error(Type, reason) {
      return new Type(this.path() + ": " + reason);
    }

    cannot(label, remedy) {
      return this.error($TypeError, label + " is not a value that can cross; " + remedy);
    }

    rewrite(value) {
      const open = this.open;
      const root = this.copy(value, "");
      while (open.length !== 0) {
        const top = open[open.length - 1];
        const { keys, source, out } = top;
        const depth = open.length;
        const count = keys === null ? source.length : keys.length;
        while (open.length === depth) {
          if (++top.index >= count) {
            open.length--;
          } else if (keys === null) {
            const item = this.copy(source[top.index], top.index);
            out[top.index] = item === undefined ? null : item;
          } else {
            const key = keys[top.index];
            if (startsWith(key, this.key)) throw KEY_TAKEN;
            const item = this.copy(source[key], key);
            if (item !== undefined) out[key] = item;
          }
        }
      }
      return root === undefined ? null : root;
    }

    escape(payload) {
      this.escapes++;
      return { __proto__: null, [this.key]: payload };
    }

    segment(code, buffer, offset, length) {
      const at = this.segments.length;
      try {
        this.segments[at] = new $Uint8Array(buffer, offset, length);
      } catch {
        throw this.cannot("a buffer that was transferred", "send it before, or a copy");
      }
      return code + at;
    }

    // A leaf's copy, or an empty list or object that `rewrite` goes on to fill.
    copy(value, key) {
      if ((typeof value === "object" && value !== null) || typeof value === "bigint") {
        const toJSON = value.toJSON;
        if (typeof toJSON === "function") value = apply(toJSON, value, [$String(key)]);
      }
      switch (typeof value) {
        case "string":
        case "boolean":
        case "undefined":
          return value;
        case "number":
          if (isPlainNumber(value)) return value;
          if (value !== value) return this.escape("fnan");
          if (value - value !== 0) return this.escape(value > 0 ? "finf" : "f-inf");
          if (value === 0) return this.escape("f-0.0");
          // Integral, all that are left: an int as long as JavaScript itself writes them out in digits.
          if (value < DIGITS_END && value > -DIGITS_END) return this.escape("i" + bigIntToString($BigInt(value), 16));
          return this.escape("f" + value);
        case "bigint":
          if (value <= MAX_SAFE_BIG && value >= -MAX_SAFE_BIG) return $Number(value);
          return this.escape("i" + bigIntToString(value, 16));
        case "object":
          return value === null ? null : this.object(value);
        case "function":
          throw this.cannot("function", "send what it returns");
        default:
          throw this.cannot("symbol", "convert it to a string");
      }
    }

    object(value) {
      if (isArray(value)) return this.enter(value, null, []);
      const prototype = getPrototypeOf(value);
      if (prototype !== objectPrototype && prototype !== null) {
        if (isView(value)) return this.view(value);
        const size = byteLengthOf(value);
        if (size >= 0) return this.escape(this.segment("b", value, 0, size));
        for (let i = 0; i < refused.length; i++) {
          if (isPrototypeOf(refused[i].prototype, value)) throw this.cannot(refused[i].label, refused[i].remedy);
        }
        for (let i = 0; i < boxed.length; i++) {
          if (isPrototypeOf(boxed[i], value)) return this.boxed(value, boxed[i]);
        }
      }
      const symbols = getOwnPropertySymbols(value);
      for (let i = 0; i < symbols.length; i++) {
        if (isEnumerable(value, symbols[i])) {
          throw this.error($TypeError, "the key " + symbolToString(symbols[i]) + " is a symbol; keys must be strings");
        }
      }
      return this.enter(value, objectKeys(value), { __proto__: null });
    }

    enter(source, keys, out) {
      const open = this.open;
      for (let i = 0; i < open.length; i++) {
        if (open[i].source === source) throw this.error($TypeError, "the value contains itself; break the cycle");
      }
      if (open.length >= MAX_DEPTH) {
        throw this.error($RangeError, "nested deeper than " + MAX_DEPTH + " levels; flatten it");
      }
      open[open.length] = { __proto__: null, source, keys, index: -1, out };
      return out;
    }

    view(value) {
      const tag = typedTag(value);
      if (tag === undefined) {
        const data = this.segment("t", viewBuffer(value), viewOffset(value), viewBytes(value));
        return this.escape(data + ":u1:" + viewBytes(value));
      }
      const length = typedBytes(value);
      const code = tag === "Uint8Array" ? "b" : "t";
      const data = this.segment(code, typedBuffer(value), typedOffset(value), length);
      return this.escape(code === "b" ? data : data + ":" + names[tag] + ":" + typedLength(value));
    }

    // JSON.stringify sees through the objects that wrap a primitive.
    boxed(value, prototype) {
      if (prototype === boxed[0]) return this.copy($Number(value), "");
      if (prototype === boxed[1]) return $String(value);
      if (prototype === boxed[2]) return booleanValueOf(value);
      throw this.cannot(prototype === boxed[3] ? "BigInt object" : "Symbol object", "send the primitive");
    }
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

  // A reserved key that no key in `value` starts with.
  function freeKey(value) {
    const taken = new $Set();
    const seen = new $Set();
    const left = [value];
    while (left.length !== 0) {
      const found = left[left.length - 1];
      left.length--;
      if (typeof found !== "object" || found === null || isView(found) || setHas(seen, found)) continue;
      setAdd(seen, found);
      const keys = objectKeys(found);
      for (let i = 0; i < keys.length; i++) {
        if (startsWith(keys[i], KEY)) {
          const end = indexOf(keys[i], KEY, 1);
          setAdd(taken, slice(keys[i], 1, end < 0 ? undefined : end));
        }
        left[left.length] = found[keys[i]];
      }
    }
    let number = 0;
    while (setHas(taken, $String(number))) number++;
    return KEY + number + KEY;
  }

  function rewritten(value) {
    let key = KEY;
    let suffix = "";
    for (;;) {
      const rewriter = new Rewriter(key);
      try {
        return { __proto__: null, rewriter, text: stringify(rewriter.rewrite(value)) };
      } catch (error) {
        if (error !== KEY_TAKEN) throw error;
        // What toJSON returns is not in `value`, so its keys are met by longer and longer reserved ones.
        key = freeKey(value) + suffix;
        suffix += KEY;
        if (suffix.length > 64) throw rewriter.cannot("an object whose keys change", "convert it to a plain object");
      }
    }
  }

  function encode(value, maxBytes = Infinity) {
    let text;
    let rewriter = null;
    let plain = false;
    switch (typeof value) {
      case "string":
      case "boolean":
        plain = true;
        break;
      case "number":
        plain = isPlainNumber(value);
        break;
      case "undefined":
        value = null;
        plain = true;
        break;
      case "object":
        plain = value === null || isPlain(value, 1);
    }
    if (plain) {
      text = stringify(value);
    } else {
      const found = rewritten(value);
      text = found.text;
      if (found.rewriter.escapes !== 0) rewriter = found.rewriter;
    }
    if (rewriter === null) {
      // A character is at most three bytes; most texts need no counting.
      if (text.length * 3 > maxBytes) checkSize(utf8Length(text) - (text[0] === '"' ? 2 : 0), maxBytes);
      return text;
    }
    return pack(rewriter, text, maxBytes);
  }

  function checkSize(size, maxBytes) {
    if (size <= maxBytes) return;
    const error = new $RangeError("$: the value takes " + size + " bytes, over the limit of " + maxBytes);
    weakSetAdd(payloadLimits, error);
    throw error;
  }

  function pack(rewriter, text, maxBytes) {
    const { key, segments } = rewriter;
    const textBytes = utf8Length(text);
    let size = HEAD_BYTES + 4 * segments.length + key.length + textBytes;
    for (let i = 0; i < segments.length; i++) size = align(size) + typedBytes(segments[i]);
    // Bytes or a buffer by itself count what they hold.
    checkSize(segments.length === 1 && textBytes <= LONGEST_REFERENCE ? typedBytes(segments[0]) : size, maxBytes);
    const out = new $Uint8Array(size);
    out[0] = MAGIC;
    out[1] = VERSION;
    out[2] = key.length;
    writeUint32(out, 4, textBytes);
    writeUint32(out, 8, segments.length);
    let at = HEAD_BYTES;
    for (let i = 0; i < segments.length; i++, at += 4) writeUint32(out, at, typedBytes(segments[i]));
    at = writeUtf8(out, at, key);
    at = writeUtf8(out, at, text);
    for (let i = 0; i < segments.length; i++) {
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
