// Crypto: the object `crypto`, whose random bytes come from the host each time, so that none are in the image.

import {
  TypedArrayBuffer,
  TypedArrayByteLength,
  TypedArrayByteOffset,
  TypedArrayTag,
  expose,
  isView,
} from "isola:primordials";
import { randomBytes } from "isola:door";

const QUOTA_BYTES = 65536;
const integerArrays = new Set([
  "Int8Array",
  "Uint8Array",
  "Uint8ClampedArray",
  "Int16Array",
  "Uint16Array",
  "Int32Array",
  "Uint32Array",
  "BigInt64Array",
  "BigUint64Array",
]);
const hex = [];
for (let i = 0; i < 256; i++) hex.push(i.toString(16).padStart(2, "0"));

class Crypto {
  getRandomValues(array) {
    let tag;
    try {
      tag = TypedArrayTag(array);
    } catch {
      tag = undefined;
    }
    if (tag === undefined && !isView(array)) {
      throw new TypeError("getRandomValues: the argument must be an integer typed array");
    }
    if (!integerArrays.has(tag)) {
      throw new DOMException(`getRandomValues: ${tag ?? "DataView"} is not an integer typed array`, "TypeMismatchError");
    }
    const length = TypedArrayByteLength(array);
    if (length > QUOTA_BYTES) {
      throw new DOMException(`getRandomValues: ${length} bytes are more than ${QUOTA_BYTES}`, "QuotaExceededError");
    }
    if (length > 0) new Uint8Array(TypedArrayBuffer(array), TypedArrayByteOffset(array), length).set(randomBytes(length));
    return array;
  }

  randomUUID() {
    const bytes = randomBytes(16);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = "";
    for (let i = 0; i < 16; i++) {
      if (i === 4 || i === 6 || i === 8 || i === 10) text += "-";
      text += hex[bytes[i]];
    }
    return text;
  }
}
expose(Crypto.prototype, Symbol.toStringTag, "Crypto");

export { Crypto };
export const crypto = new Crypto();
