// Structured clone: the function `structuredClone`. (HTML standard, section 2.7; within one realm.)

const toTag = Object.prototype.toString;
const errorTypes = { __proto__: null, Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };
const brandChecks = [
  [Date.prototype.getTime, (value) => new Date(Date.prototype.getTime.call(value))],
  [Object.getOwnPropertyDescriptor(RegExp.prototype, "source").get, (value) => new RegExp(value.source, value.flags)],
  [Boolean.prototype.valueOf, (value) => Object(Boolean.prototype.valueOf.call(value))],
  [Number.prototype.valueOf, (value) => Object(Number.prototype.valueOf.call(value))],
  [String.prototype.valueOf, (value) => Object(String.prototype.valueOf.call(value))],
  [BigInt.prototype.valueOf, (value) => Object(BigInt.prototype.valueOf.call(value))],
];
const mapSize = Object.getOwnPropertyDescriptor(Map.prototype, "size").get;
const setSize = Object.getOwnPropertyDescriptor(Set.prototype, "size").get;
const bufferSize = Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, "byteLength").get;
const sharedSize = Object.getOwnPropertyDescriptor(SharedArrayBuffer.prototype, "byteLength").get;
const typedTag = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag).get;
const typedArrays = {
  __proto__: null,
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  BigInt64Array,
  BigUint64Array,
  Float16Array,
  Float32Array,
  Float64Array,
};
// Brand checks of classes whose internal state cannot be copied.
const closed = [
  WeakMap.prototype.has,
  WeakSet.prototype.has,
  WeakRef.prototype.deref,
  Promise.prototype.then,
  FinalizationRegistry.prototype.unregister,
];

function refuse(value, why) {
  throw new DOMException(`${describe(value)} could not be cloned${why ?? ""}.`, "DataCloneError");
}

function describe(value) {
  if (typeof value === "function") return value.name ? `function ${value.name}` : "a function";
  if (typeof value === "symbol") return value.toString();
  return toTag.call(value);
}

function has(check, value) {
  try {
    check.call(value, value);
    return true;
  } catch {
    return false;
  }
}

// A promise's `then` would add a listener, so its class is looked at instead.
function isClosed(value) {
  if (value instanceof Promise) return true;
  for (const check of closed) if (check !== Promise.prototype.then && has(check, value)) return true;
  return false;
}

function clone(value, seen) {
  if (typeof value === "symbol" || typeof value === "function") refuse(value);
  if (value === null || typeof value !== "object") return value;
  const known = seen.get(value);
  if (known !== undefined) return known;
  const copy = shallow(value, seen);
  seen.set(value, copy.result);
  if (copy.fill !== undefined) copy.fill(copy.result);
  return copy.result;
}

// An empty copy, and the function that fills it once `seen` has it, for cycles.
function shallow(value, seen) {
  if (Array.isArray(value)) {
    return { result: new Array(value.length), fill: (result) => properties(value, result, seen) };
  }
  const tag = toTag.call(value);
  if (tag === "[object Object]" && isPlain(value)) return { result: {}, fill: (result) => properties(value, result, seen) };
  if (ArrayBuffer.isView(value)) return { result: view(value, seen) };
  if (has(bufferSize, value)) {
    if (value.detached) refuse(value, ": it is detached");
    const result = value.resizable
      ? new ArrayBuffer(value.byteLength, { maxByteLength: value.maxByteLength })
      : new ArrayBuffer(value.byteLength);
    new Uint8Array(result).set(new Uint8Array(value));
    return { result };
  }
  if (has(sharedSize, value)) refuse(value);
  if (has(mapSize, value)) {
    const entries = [...Map.prototype.entries.call(value)];
    return {
      result: new Map(),
      fill: (result) => {
        for (const [key, item] of entries) result.set(clone(key, seen), clone(item, seen));
      },
    };
  }
  if (has(setSize, value)) {
    const items = [...Set.prototype.values.call(value)];
    return {
      result: new Set(),
      fill: (result) => {
        for (const item of items) result.add(clone(item, seen));
      },
    };
  }
  if (value instanceof DOMException) {
    const result = new DOMException(value.message, value.name);
    Object.defineProperty(result, "stack", { value: value.stack, writable: true, configurable: true });
    return { result };
  }
  if (Error.isError(value)) return error(value, seen);
  for (const [check, make] of brandChecks) if (has(check, value)) return { result: make(value) };
  if (isClosed(value) || has(Symbol.prototype.valueOf, value)) refuse(value);
  return { result: {}, fill: (result) => properties(value, result, seen) };
}

function isPlain(value) {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function properties(from, to, seen) {
  for (const key of Object.keys(from)) {
    Object.defineProperty(to, key, {
      value: clone(from[key], seen),
      writable: true,
      enumerable: true,
      configurable: true,
    });
  }
}

function view(value, seen) {
  const buffer = clone(value.buffer, seen);
  if (value instanceof DataView) return new DataView(buffer, value.byteOffset, value.byteLength);
  return new typedArrays[typedTag.call(value)](buffer, value.byteOffset, value.length);
}

function error(value, seen) {
  const type = errorTypes[String(value.name)] ?? Error;
  const message = Object.getOwnPropertyDescriptor(value, "message");
  const result = message === undefined || !("value" in message) ? new type() : new type(String(message.value));
  Object.defineProperty(result, "stack", { value: String(value.stack), writable: true, configurable: true });
  return {
    result,
    fill: () => {
      if (Object.hasOwn(value, "cause")) {
        Object.defineProperty(result, "cause", { value: clone(value.cause, seen), writable: true, configurable: true });
      }
    },
  };
}

export function structuredClone(value, options) {
  if (arguments.length === 0) throw new TypeError("structuredClone: 1 argument required");
  const transfer = options?.transfer === undefined ? [] : [...options.transfer];
  const seen = new Map();
  for (const one of transfer) {
    if (typeof one !== "object" || one === null || !has(bufferSize, one)) refuse(one, ": it cannot be transferred");
    if (seen.has(one)) refuse(one, ": it is in the transfer list twice");
    if (one.detached) refuse(one, ": it is detached");
    seen.set(one, null);
  }
  seen.clear();
  const moved = [];
  for (const one of transfer) {
    // Copied first and detached last, so that a failure in between changes nothing.
    const copy = one.slice();
    seen.set(one, copy);
    moved.push(one);
  }
  const result = clone(value, seen);
  for (const one of moved) one.transfer();
  return result;
}
