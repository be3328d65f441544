// Decoder: JSON text, or the bytes of a frame, to a value. The input is the host's and is trusted.

import {
  ArrayJoin,
  BigInt,
  Number,
  NumberToString,
  StringIndexOf,
  StringPadStart,
  StringSlice,
  TypeError,
  TypedArrayBuffer,
  TypedArrayLength,
  TypedArraySet,
  Uint8Array,
  construct,
  hasOwn,
  isArray,
  jsonParse,
  objectKeys,
} from "isola:primordials";
import { MAGIC, textOf, typedArrayOf, unpack } from "isola:wire_form";

export function decode(body) {
  if (typeof body === "string") return jsonParse(body);
  if (body[0] !== MAGIC) return jsonParse(textOf(body));
  const frame = unpack(body);
  return revive(jsonParse(frame.text), frame.key, frame.segments);
}

// Replace each escape by the value it stands for.
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

// The payload of an escape; undefined for any other object.
function payloadOf(item, key) {
  const payload = hasOwn(item, key) ? item[key] : undefined;
  return typeof payload === "string" && objectKeys(item).length === 1 ? payload : undefined;
}

function restore(payload, segments) {
  const rest = StringSlice(payload, 1);
  switch (payload[0]) {
    case "b":
      return copyOf(segments[rest]);
    case "t": {
      const end = StringIndexOf(rest, ":");
      const wire = StringSlice(rest, end + 1, StringIndexOf(rest, ":", end + 1));
      const constructor = typedArrayOf[wire];
      if (constructor === undefined) throw new TypeError("$: this engine has no typed array for " + wire);
      const data = copyOf(segments[StringSlice(rest, 0, end)]);
      return constructor === Uint8Array ? data : construct(constructor, [TypedArrayBuffer(data)]);
    }
    case "i":
      return rest[0] === "-" ? -BigInt("0x" + StringSlice(rest, 1)) : BigInt("0x" + rest);
    case "I":
      return bigIntOf(segments[rest]);
    case "J":
      return -bigIntOf(segments[rest]);
    case "f":
      return rest === "nan" ? NaN : rest === "inf" ? Infinity : rest === "-inf" ? -Infinity : Number(rest);
    default:
      throw new TypeError("$: an escape that means nothing: " + payload);
  }
}

function copyOf(segment) {
  const out = new Uint8Array(TypedArrayLength(segment));
  TypedArraySet(out, segment);
  return out;
}

// A magnitude in little-endian bytes.
function bigIntOf(bytes) {
  const digits = [];
  const length = TypedArrayLength(bytes);
  for (let i = 0; i < length; i++) digits[i] = StringPadStart(NumberToString(bytes[length - 1 - i], 16), 2, "0");
  return BigInt("0x" + ArrayJoin(digits, ""));
}
