// How does the guest say something to the host? One frame out, one reply back, in the JavaScript port's encoding.
//
// A frame is a string (kind, number in decimal, a blank, the body) when its body is text; a binary body travels beside
// it as a Uint8Array. A reply is undefined, a boolean, a string or a Uint8Array. docs/protocol.md has both ports.

import { InternalError, String, StringToWellFormed, TypedArrayLength, fromCharCode } from "isola:primordials";

export const HOSTCALL = 0x10;
export const EMIT = 0x11;
export const LOG = 0x12;
export const DONE = 0x13;
export const FAIL = 0x14;
export const PARK = 0x15;
export const DROP = 0x17;
export const READ = 0x18;
export const STOP = 0x19;
const RANDOM = 0x1a;
const IDNA = 0x1b;
const ROOM = 0x1f;

export const FIELD = "\x1f"; // JSON text holds no control characters, so these part texts
export const RECORD = "\x1e";
const SHORT_FRAME = 32768; // characters that need no announcement; a guess

let door = () => undefined;

export function install(doorFunction) {
  door = doorFunction;
}

// A long frame is announced, because reading it takes memory that may not be there.
function announce(length) {
  if (length > SHORT_FRAME && door(fromCharCode(ROOM) + "0 " + 3 * length) === false) {
    throw new InternalError("out of memory");
  }
}

export function knock(kind, number, text) {
  announce(text.length);
  return door(fromCharCode(kind) + number + " " + text);
}

export function knockValue(kind, number, prefix, body) {
  if (typeof body === "string") return knock(kind, number, prefix + body);
  announce(TypedArrayLength(body));
  return door(fromCharCode(kind) + number + " " + prefix, body);
}

export function randomBytes(length) {
  return knock(RANDOM, 0, String(length));
}

// The ASCII form of a domain, or null.
export function domainToAscii(domain) {
  const answer = knock(IDNA, 0, StringToWellFormed(domain));
  return typeof answer === "string" ? answer : null;
}
