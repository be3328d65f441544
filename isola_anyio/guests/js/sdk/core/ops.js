// Ops: operations that wait for the host, which are hostcalls and reads of stream arguments, each with a number.
//
// Numbers are never reused. When a run is over, `dropAll` rejects its pending operations, and one begun later, by a
// stream kept in a global for instance, is rejected at once.

import {
  ArrayPush,
  ArrayShift,
  Error,
  Map,
  MapClear,
  MapDelete,
  MapForEach,
  MapGet,
  MapSet,
  MapSize,
  Promise,
  PromiseThen,
  String,
  StringCharCodeAt,
  StringIndexOf,
  StringSlice,
  TypedArrayBuffer,
  TypedArrayByteOffset,
  TypedArrayLength,
  TypeError,
  Uint8Array,
  asyncIterator,
  defineProperty,
  jsonStringify,
} from "isola:primordials";
import { abortError, namedError, userFrames } from "isola:errors";
import { decode, encode } from "isola:codec";
import { DROP, FIELD, HOSTCALL, READ, RECORD, STOP, callDoor, callDoorWithValue } from "isola:door";
import { rejection, resolved } from "isola:promises";
import { readUint32 } from "isola:wire_form";

const OK = 0;
const ITEMS = 2;
const ENDED = 3;

export const OVER_MESSAGE = "the run has ended";

export let maxPayload = 64 * 1024 * 1024;
let taking = false; // a run is under way
let runs = 0; // begun so far
let last = 0; // the latest number
const pending = new Map(); // number -> op

export function limitPayload(bytes) {
  maxPayload = bytes;
}

// A run begins.
export function open() {
  taking = true;
  runs++;
  MapClear(pending);
}

// A run is over: new operations are rejected.
export function close() {
  taking = false;
}

export function pendingOps() {
  return MapSize(pending);
}

function nothing() {}

function newOp(stream) {
  const op = { __proto__: null, resolve: nothing, reject: nothing, promise: undefined, stream, site: undefined, name: "" };
  op.promise = new Promise((resolve, reject) => {
    op.resolve = resolve;
    op.reject = reject;
  });
  return op;
}

export function hostcall(name, payload) {
  if (typeof name !== "string") return rejection(new TypeError("hostcall: the name must be a string, not " + typeof name));
  if (!taking) return rejection(abortError(OVER_MESSAGE));
  try {
    const body = encode(payload === undefined ? null : payload, maxPayload);
    const op = newOp(null);
    op.name = name;
    op.site = new Error(); // holds the stack, for the error if the hostcall fails
    const number = ++last;
    answer(op, number, callDoorWithValue(HOSTCALL, number, jsonStringify(name) + FIELD, body));
    return op.promise;
  } catch (error) {
    return rejection(error);
  }
}

// Take the door's reply: the result, or undefined when a later RESUME has it.
function answer(op, number, reply) {
  if (reply === undefined) {
    MapSet(pending, number, op);
  } else if (typeof reply === "string") {
    complete(op, StringCharCodeAt(reply, 0), StringSlice(reply, 1));
  } else {
    complete(op, reply[0], bytesFrom(reply, 1, TypedArrayLength(reply) - 1));
  }
}

function complete(op, status, body) {
  try {
    if (op.stream !== null) op.stream.arrived(op, status, body);
    else if (status === OK) op.resolve(decode(body));
    else op.reject(hostcallError(op, decode(body)));
  } catch (error) {
    op.reject(error);
  }
}

function hostcallError(op, failure) {
  const error = op.site;
  const set = (key, value, enumerable) =>
    defineProperty(error, key, { __proto__: null, value, writable: true, configurable: true, enumerable });
  set("message", failure.message, false);
  set("name", "HostcallError", false);
  set("hostcall", op.name, true);
  set("type", failure.type, true);
  set("stack", userFrames(error.stack), false);
  return error;
}

// A stream argument as the guest sees it: an async iterator whose `next` may be called before the last one has settled.
export class Stream {
  #number;
  #run = runs;
  #items = [];
  #over = false;
  #last = undefined; // the promise of the latest `next`: the next read begins after it

  constructor(number) {
    this.#number = number;
  }

  next() {
    const before = this.#last;
    const take = () => this.#take();
    const mine = before === undefined ? take() : PromiseThen(before, take, take);
    this.#last = mine;
    const forget = () => {
      if (this.#last === mine) this.#last = undefined;
    };
    PromiseThen(mine, forget, forget);
    return mine;
  }

  #take() {
    if (this.#items.length > 0) return resolved({ value: ArrayShift(this.#items), done: false });
    if (this.#over) return resolved({ value: undefined, done: true });
    if (!taking || this.#run !== runs) return rejection(abortError(OVER_MESSAGE));
    const op = newOp(this);
    const number = ++last;
    answer(op, number, callDoor(READ, number, String(this.#number)));
    return op.promise;
  }

  arrived(op, status, body) {
    if (status === ITEMS) {
      this.#items = decode(body);
      op.resolve({ value: ArrayShift(this.#items), done: false });
    } else if (status === ENDED) {
      this.#over = true;
      op.resolve({ value: undefined, done: true });
    } else {
      this.#over = true;
      const failure = decode(body);
      op.reject(namedError(failure.type, failure.message));
    }
  }

  return(value) {
    this.#items = [];
    if (!this.#over) {
      this.#over = true;
      if (taking && this.#run === runs) callDoor(STOP, this.#number, "");
    }
    return resolved({ value, done: true });
  }

  [asyncIterator]() {
    return this;
  }
}

// Reject all pending operations; true when there was one.
export function dropAll(message) {
  if (MapSize(pending) === 0) return false;
  const left = [];
  MapForEach(pending, (op, number) => ArrayPush(left, { __proto__: null, op, number }));
  MapClear(pending);
  for (let i = 0; i < left.length; i++) {
    callDoor(DROP, left[i].number, "");
    left[i].op.reject(abortError(message));
  }
  return true;
}

// --- completions ------------------------------------------------------------------------------------------------

// Records "number status body", separated by RECORD.
export function settleText(text) {
  let start = 0;
  while (start < text.length) {
    let stop = StringIndexOf(text, RECORD, start);
    if (stop < 0) stop = text.length;
    const first = StringIndexOf(text, " ", start);
    const second = StringIndexOf(text, " ", first + 1);
    settle(+StringSlice(text, start, first), +StringSlice(text, first + 1, second), StringSlice(text, second + 1, stop));
    start = stop + 1;
  }
}

// Records of u32 number, u8 status, u32 length and body, the form that every kind of guest knows.
export function settleBytes(bytes) {
  const total = TypedArrayLength(bytes);
  let at = 0;
  while (at < total) {
    const length = readUint32(bytes, at + 5);
    settle(readUint32(bytes, at), bytes[at + 4], bytesFrom(bytes, at + 9, length));
    at += 9 + length;
  }
}

function settle(number, status, body) {
  const op = MapGet(pending, number);
  if (op === undefined) return;
  MapDelete(pending, number);
  complete(op, status, body);
}

function bytesFrom(bytes, offset, length) {
  return new Uint8Array(TypedArrayBuffer(bytes), TypedArrayByteOffset(bytes) + offset, length);
}
