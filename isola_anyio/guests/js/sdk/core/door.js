// Door: calls of the host, one frame out and one reply back, in the JavaScript port's encoding.
//
// A frame is a string (kind, number in decimal, a blank, the body) when its body is text; a binary body is a second
// argument, a Uint8Array. A reply is undefined, a boolean, a string or a Uint8Array. docs/protocol.md has both ports.

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

export const FIELD = "\x1f"; // JSON text holds no control characters: these separate texts
export const RECORD = "\x1e";
const SHORT_FRAME = 32768; // characters of a frame that is sent without asking for room first; a guess

let door = () => undefined;

export function install(doorFunction) {
  door = doorFunction;
}

// Ask the host whether there is memory to read a frame of this many characters: reading copies it.
function checkRoom(length) {
  if (length > SHORT_FRAME && door(fromCharCode(ROOM) + "0 " + 3 * length) === false) {
    throw new InternalError("out of memory");
  }
}

export function callDoor(kind, number, text) {
  checkRoom(text.length);
  return door(fromCharCode(kind) + number + " " + text);
}

// As `callDoor`, with an encoded value: text or bytes.
export function callDoorWithValue(kind, number, prefix, body) {
  if (typeof body === "string") return callDoor(kind, number, prefix + body);
  checkRoom(TypedArrayLength(body));
  return door(fromCharCode(kind) + number + " " + prefix, body);
}

export function randomBytes(length) {
  return callDoor(RANDOM, 0, String(length));
}

// The ASCII form of a domain, or null for an invalid one.
export function domainToAscii(domain) {
  const answer = callDoor(IDNA, 0, StringToWellFormed(domain));
  return typeof answer === "string" ? answer : null;
}
