// What does the guest do with a message, and how does a run come to its end?
//
// The host delivers a frame to `dispatch`, lets the microtasks run, and calls `pump` until that says no: `pump` fires
// one due timer, or ends what a finished run left behind, and asks for the microtasks again; or it ends the turn with
// DONE, FAIL or PARK. A frame is a string (kind, number in decimal, a blank, the body) when its body is text; a binary
// body travels beside it as a Uint8Array. docs/protocol.md has both ports.
//
//   idle --LOAD/CALL--> running --CANCEL--> cancelled
//                          |  outermost done    |  outermost done, or nothing left that could wake it
//                          v                    v
//                        ending: what is left is dropped and rejected, microtasks run, then DONE or FAIL --> idle

import {
  ArrayPush,
  ArrayShift,
  ArraySplice,
  Error,
  InternalError,
  Map,
  MapClear,
  MapDelete,
  MapForEach,
  MapGet,
  MapSet,
  MapSize,
  Promise,
  PromiseThen,
  RegExpExec,
  String,
  StringCharCodeAt,
  StringIndexOf,
  StringSlice,
  StringToWellFormed,
  SymbolFor,
  TypedArrayBuffer,
  TypedArrayByteOffset,
  TypedArrayLength,
  TypeError,
  Uint8Array,
  apply,
  asyncIterator,
  defineProperty,
  deleteProperty,
  expose,
  fromCharCode,
  hasOwn,
  indirectEval,
  isArray,
  jsonStringify,
  max,
  now,
  objectKeys,
} from "isola:primordials";
import { abortError, describe, isOurAbort, namedError, report } from "isola:errors";
import { codec } from "isola:codec";
import * as timers from "isola:timers";
import { seedRandom } from "isola:random";
import { restartClock } from "isola:performance";

// Host to guest.
const SETUP = 0x01;
const LOAD = 0x02;
const LOAD_FILE = 0x03;
const CALL = 0x04;
const RESUME = 0x05;
const CANCEL = 0x06;
const PRELUDE = 0x07;
const FREEZE = 0x08;
// Guest to host.
const HOSTCALL = 0x10;
const EMIT = 0x11;
const LOG = 0x12;
const DONE = 0x13;
const FAIL = 0x14;
const PARK = 0x15;
const DROP = 0x17;
const READ = 0x18;
const STOP = 0x19;
const RANDOM = 0x1a;
const IDNA = 0x1b;
const ROOM = 0x1f;

const SHORT_FRAME = 32768;

const OK = 0;
const FAILED = 1;
const ITEMS = 2;
const ENDED = 3;

const IDLE = 0;
const RUNNING = 1;
const CANCELLED = 2;
const ENDING = 3;

const CANCELLED_MESSAGE = "the run was cancelled";
const OVER_MESSAGE = "the run has ended";
const RECORD = "\x1e"; // JSON text holds no control characters, so these part text records
const FIELD = "\x1f";
const NO_MEMORY = '{"type":"InternalError","message":"out of memory","traceback":"","limit":"memory"}';
const BROKEN = '{"type":"Error","message":"the failure could not be described","traceback":"","limit":null}';
const identifier = /^[\p{ID_Start}$_][\p{ID_Continue}$\u200c\u200d]*$/u;

let door = () => undefined; // one frame out, one reply back
let maxPayload = 64 * 1024 * 1024;

let phase = IDLE;
let run = 0;
let settled = false; // the outermost function has ended
let succeeded = false;
let outcome; // its value, or what it threw
let turnStart = 0;
let room = true; // the host takes another event
let source = null; // the iterator that is being streamed
let pulling = false; // its `next` has not answered yet
let cancelledBefore = false; // ... the end
let lastOp = 0;
let environment = null; // `process.env`, once there is a variable: the template's, and over them the sandbox's
const ops = new Map(); // what the host owes us: number -> {resolve, reject, stream}
const rejected = new Map(); // promises rejected and not handled yet -> reason
const getters = new Map(); // name -> function giving what the name means now
const scopes = []; // of the modules loaded, oldest first: name -> value

// --- the door ---------------------------------------------------------------------------------------------------

export function install(doorFunction) {
  door = doorFunction;
}

// A long frame is announced, because reading it takes memory that may not be there.
function announce(length) {
  if (length > SHORT_FRAME && door(fromCharCode(ROOM) + "0 " + 3 * length) === false) {
    throw new InternalError("out of memory");
  }
}

function knock(kind, number, text) {
  announce(text.length);
  return door(fromCharCode(kind) + number + " " + text);
}

function knockValue(kind, number, prefix, body) {
  if (typeof body === "string") return knock(kind, number, prefix + body);
  announce(TypedArrayLength(body));
  return door(fromCharCode(kind) + number + " " + prefix, body);
}

export function log(level, text) {
  if (phase === IDLE) return;
  const reply = knock(LOG, run, level + StringToWellFormed(text));
  if (reply === false) {
    room = false;
  } else if (reply === undefined && phase === RUNNING) {
    // The run was cancelled while it computed: whoever talks is told, and unwinds.
    cancel();
    throw abortError(CANCELLED_MESSAGE);
  }
}

export function randomBytes(length) {
  return knock(RANDOM, 0, String(length));
}

// The ASCII form of a domain, or null.
export function domainToAscii(domain) {
  const answer = knock(IDNA, 0, StringToWellFormed(domain));
  return typeof answer === "string" ? answer : null;
}

// --- hostcalls and streams --------------------------------------------------------------------------------------

function nothing() {}

function newOp(stream) {
  const op = { __proto__: null, resolve: nothing, reject: nothing, promise: undefined, stream, site: undefined, name: "" };
  op.promise = new Promise((resolve, reject) => {
    op.resolve = resolve;
    op.reject = reject;
  });
  return op;
}

export function rejection(reason) {
  return new Promise((_, reject) => reject(reason));
}

export function hostcall(name, payload) {
  if (typeof name !== "string") return rejection(new TypeError("hostcall: the name must be a string, not " + typeof name));
  if (phase === ENDING || phase === IDLE) return rejection(abortError(OVER_MESSAGE));
  try {
    const body = codec.encode(payload === undefined ? null : payload, maxPayload);
    const op = newOp(null);
    op.name = name;
    op.site = new Error();
    const number = ++lastOp;
    answer(op, number, knockValue(HOSTCALL, number, jsonStringify(name) + FIELD, body));
    return op.promise;
  } catch (error) {
    return rejection(error);
  }
}

// What the door said at once, or the promise to say it later.
function answer(op, number, reply) {
  if (reply === undefined) {
    MapSet(ops, number, op);
  } else if (typeof reply === "string") {
    complete(op, StringCharCodeAt(reply, 0), StringSlice(reply, 1));
  } else {
    complete(op, reply[0], bytesFrom(reply, 1, TypedArrayLength(reply) - 1));
  }
}

function complete(op, status, body) {
  try {
    if (op.stream !== null) op.stream.arrived(op, status, body);
    else if (status === OK) op.resolve(codec.decode(body));
    else op.reject(hostcallError(op, codec.decode(body)));
  } catch (error) {
    op.reject(error);
  }
}

function hostcallError(op, told) {
  const error = op.site;
  const set = (key, value, enumerable) =>
    defineProperty(error, key, { __proto__: null, value, writable: true, configurable: true, enumerable });
  set("message", told.message, false);
  set("name", "HostcallError", false);
  set("hostcall", op.name, true);
  set("type", told.type, true);
  return error;
}

class Stream {
  #number;
  #items = [];
  #over = false;
  #last = undefined; // the promise of the latest `next`: reads take turns

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
    if (phase === ENDING || phase === IDLE) return rejection(abortError(OVER_MESSAGE));
    const op = newOp(this);
    const number = ++lastOp;
    answer(op, number, knock(READ, number, String(this.#number)));
    return op.promise;
  }

  arrived(op, status, body) {
    if (status === ITEMS) {
      this.#items = codec.decode(body);
      op.resolve({ value: ArrayShift(this.#items), done: false });
    } else if (status === ENDED) {
      this.#over = true;
      op.resolve({ value: undefined, done: true });
    } else {
      this.#over = true;
      const told = codec.decode(body);
      op.reject(namedError(told.type, told.message));
    }
  }

  return(value) {
    this.#items = [];
    if (!this.#over) {
      this.#over = true;
      knock(STOP, this.#number, "");
    }
    return resolved({ value, done: true });
  }

  [asyncIterator]() {
    return this;
  }
}

function resolved(value) {
  return new Promise((resolve) => resolve(value));
}

// --- a run ------------------------------------------------------------------------------------------------------

function begin(number) {
  phase = RUNNING;
  run = number;
  settled = false;
  outcome = undefined;
  room = true;
  source = null;
  pulling = false;
  cancelledBefore = false;
  MapClear(ops);
  MapClear(rejected);
  timers.open();
}

function finish(success, value) {
  if (settled || phase === IDLE) return;
  settled = true;
  succeeded = success;
  outcome = value;
}

const fail = (reason) => finish(false, reason);

function lookup(name) {
  if (RegExpExec(identifier, name) === null) throw new ReferenceError(`${jsonStringify(name)} is not a name`);
  for (let i = scopes.length - 1; i >= 0; i--) {
    try {
      const found = scopes[i](name);
      if (found !== undefined) return found;
    } catch {
      // A guest that registered something else.
    }
  }
  if (hasOwn(globalThis, name)) return globalThis[name];
  let getter = MapGet(getters, name);
  if (getter === undefined) {
    try {
      getter = indirectEval("()=>" + name);
    } catch {
      throw new ReferenceError(`${name} is not a name`);
    }
    MapSet(getters, name, getter);
  }
  try {
    return getter();
  } catch (error) {
    throw new ReferenceError(error.message); // without the frames of the lookup
  }
}

function call(request) {
  const name = request[0];
  const args = request[1];
  const named = request[2];
  const streams = request[3];
  for (let i = 0; i < streams.length; i++) {
    const place = streams[i][0];
    const stream = new Stream(streams[i][1]);
    if (typeof place === "number") ArraySplice(args, place, 0, stream);
    else expose(named, place, stream, true);
  }
  if (objectKeys(named).length > 0) ArrayPush(args, named);
  const target = lookup(name);
  if (typeof target !== "function") throw new TypeError(`${name} is not a function`);
  watch(apply(target, undefined, args));
}

function isObject(value) {
  return (typeof value === "object" && value !== null) || typeof value === "function";
}

function isThenable(value) {
  return isObject(value) && typeof value.then === "function";
}

// Listen to a promise, or to what only behaves like one. `then` looks up the promise's class, which a guest may have
// broken: for the moment of the call it has none, which means the engine's own.
function follow(promise, onValue, onError) {
  try {
    PromiseThen(promise, onValue, onError);
    return;
  } catch {
    // No promise, or no class.
  }
  try {
    followBare(promise, onValue, onError);
  } catch {
    followBare(resolved(promise), onValue, onError);
  }
}

function followBare(promise, onValue, onError) {
  defineProperty(promise, "constructor", { __proto__: null, value: undefined, configurable: true });
  try {
    PromiseThen(promise, onValue, onError);
  } finally {
    deleteProperty(promise, "constructor");
  }
}

function watch(value) {
  if (isThenable(value)) follow(value, guarded(conclude), fail);
  else conclude(value);
}

// A continuation whose own failure is the run's.
function guarded(step) {
  return (value) => {
    try {
      step(value);
    } catch (error) {
      fail(error);
    }
  };
}

function conclude(value) {
  if (isObject(value) && !isArray(value)) {
    if (typeof value.next === "function") return stream(value);
    const open = value[asyncIterator];
    if (typeof open === "function") return stream(apply(open, value, []));
  }
  finish(true, value);
}

function stream(iterator) {
  source = { __proto__: null, iterator, next: iterator.next, closed: false };
  pull();
}

// Take items while the host has room and they come without waiting.
function pull() {
  const { iterator, next } = source;
  while (room && phase === RUNNING && !settled) {
    let result = apply(next, iterator, []);
    if (isThenable(result)) {
      pulling = true;
      follow(result, guarded(arrived), fail);
      return;
    }
    if (!took(result)) return;
  }
}

function arrived(result) {
  pulling = false;
  if (took(result)) pull();
}

// Emit one result of `next`; false when the stream is over, or goes on by itself later.
function took(result) {
  if (!isObject(result)) throw new TypeError("iterator result is not an object");
  const value = result.value;
  if (result.done) {
    if (isThenable(value)) follow(value, (final) => finish(true, final), fail);
    else finish(true, value);
    return false;
  }
  if (isThenable(value)) {
    pulling = true;
    follow(
      value,
      guarded((item) => {
        pulling = false;
        emit(item);
        pull();
      }),
      fail,
    );
    return false;
  }
  emit(value);
  return !settled;
}

function emit(value) {
  if (phase !== RUNNING) return;
  try {
    const body = codec.encode(value === undefined ? null : value, maxPayload);
    if (knockValue(EMIT, run, "", body) === false) room = false;
  } catch (error) {
    fail(error);
    closeSource();
  }
}

// Let a generator run its `finally` blocks.
function closeSource() {
  const iterator = source.iterator;
  source.closed = true;
  try {
    const close = iterator.return;
    if (typeof close !== "function") return;
    const answer = apply(close, iterator, []);
    if (isThenable(answer)) follow(answer, () => finish(true, undefined), fail);
    else finish(true, undefined);
  } catch (error) {
    fail(error);
  }
}

// --- cancellation and the end of a run ---------------------------------------------------------------------------

// Reject what the guest awaits; true when there was something.
function abandon(message) {
  const slept = timers.rejectSleepers(message);
  if (MapSize(ops) === 0) return slept;
  const left = [];
  MapForEach(ops, (op, number) => ArrayPush(left, { __proto__: null, op, number }));
  MapClear(ops);
  for (let i = 0; i < left.length; i++) {
    knock(DROP, left[i].number, "");
    left[i].op.reject(abortError(message));
  }
  return true;
}

function cancel() {
  if (phase !== RUNNING) return;
  phase = CANCELLED;
  abandon(CANCELLED_MESSAGE);
}

function reportRejections() {
  if (MapSize(rejected) === 0) return;
  const reasons = [];
  MapForEach(rejected, (reason) => ArrayPush(reasons, reason));
  MapClear(rejected);
  for (let i = 0; i < reasons.length; i++) {
    if (phase === RUNNING || !isOurAbort(reasons[i])) reportLost("Unhandled rejection: ", reasons[i]);
  }
}

export function reportLost(what, thrown) {
  try {
    log(3, what + report(thrown));
  } catch {
    // Cancelled meanwhile: that is the answer.
  }
}

// The engine's hook: a promise was rejected with nobody listening, or somebody came late.
export function onRejection(promise, reason, handled) {
  try {
    if (handled) MapDelete(rejected, promise);
    else if (phase !== IDLE) MapSet(rejected, promise, reason);
  } catch {
    // No memory to note it.
  }
}

function end() {
  let body;
  let kind = FAIL;
  if (phase === CANCELLED || cancelledBefore) {
    outcome = abortError(CANCELLED_MESSAGE);
    succeeded = false;
  }
  if (succeeded) {
    try {
      body = codec.encode(outcome === undefined ? null : outcome, maxPayload);
      kind = DONE;
    } catch (error) {
      outcome = error;
    }
  }
  if (kind === FAIL) {
    try {
      const told = describe(outcome);
      if (codec.isPayloadLimit(outcome)) told.limit = "payload";
      body = jsonStringify(told);
    } catch (error) {
      body = isNoMemory(error) ? NO_MEMORY : BROKEN;
    }
  }
  const number = run;
  phase = IDLE;
  outcome = undefined;
  source = null;
  cancelledBefore = false;
  MapClear(rejected);
  try {
    knockValue(kind, number, "", body);
  } catch {
    knock(FAIL, number, NO_MEMORY);
  }
}

function isNoMemory(error) {
  try {
    return error.message === "out of memory";
  } catch {
    return false;
  }
}

function park() {
  const due = timers.nextDue();
  const seconds = due < 0 ? -1 : max(0, due - now()) / 1000;
  const waitsForRoom = !room && source !== null && !pulling && phase === RUNNING;
  knock(PARK, run, seconds + " " + (waitsForRoom ? 1 : 0));
}

// Called when the microtasks have run out; true: let them run again, and come back.
export function pump() {
  if (phase === IDLE) return false;
  reportRejections();
  if (phase !== ENDING && !settled) {
    try {
      if (timers.fireOne(turnStart)) return true;
    } catch (error) {
      reportLost("Uncaught ", error);
      return true;
    }
    if (phase === CANCELLED && source !== null && !source.closed) {
      closeSource();
      return true;
    }
    if (phase === RUNNING || MapSize(ops) > 0 || timers.pendingTimers() > 0) {
      park();
      return false;
    }
    settled = true; // cancelled, and nothing is left that could wake it
  }
  if (phase !== ENDING) {
    cancelledBefore = phase === CANCELLED;
    phase = ENDING;
    timers.close();
    if (abandon(OVER_MESSAGE)) return true;
  }
  end();
  return false;
}

// --- messages ---------------------------------------------------------------------------------------------------

function bytesFrom(bytes, offset, length) {
  return new Uint8Array(TypedArrayBuffer(bytes), TypedArrayByteOffset(bytes) + offset, length);
}

function resume(text) {
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

function resumeBytes(bytes) {
  const u32 = (at) => (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
  const total = TypedArrayLength(bytes);
  let at = 0;
  while (at < total) {
    const length = u32(at + 5);
    settle(u32(at), bytes[at + 4], bytesFrom(bytes, at + 9, length));
    at += 9 + length;
  }
}

function settle(number, status, body) {
  const op = MapGet(ops, number);
  if (op === undefined) return;
  MapDelete(ops, number);
  complete(op, status, body);
}

function makeRoom() {
  if (room) return;
  room = true;
  if (source !== null && !pulling && !settled && phase === RUNNING) guarded(pull)();
}

export function dispatch(frame, bytes) {
  const kind = StringCharCodeAt(frame, 0);
  const blank = StringIndexOf(frame, " ");
  const number = +StringSlice(frame, 1, blank);
  const body = bytes === undefined ? StringSlice(frame, blank + 1) : bytes;
  turnStart = timers.pendingTimers() > 0 ? now() : 0; // asking the time costs a call of the host
  if (kind === CALL) {
    begin(number);
    try {
      call(codec.decode(body));
    } catch (error) {
      fail(error);
    }
  } else if (kind === RESUME) {
    if (phase === IDLE || number !== run) return;
    if (bytes === undefined) resume(body);
    else resumeBytes(body);
    makeRoom();
  } else if (kind === CANCEL) {
    if (number === run) cancel();
  } else if (kind === LOAD || kind === LOAD_FILE || kind === PRELUDE) {
    begin(number); // the host evaluates the source and comes back with `adopt` or `refuse`
  } else if (kind === SETUP) {
    setup(codec.decode(body));
  } else if (kind === FREEZE) {
    MapClear(getters);
    MapClear(rejected);
  }
}

function setup(given) {
  maxPayload = given.max_payload;
  seedRandom(given.seed);
  restartClock();
  const names = objectKeys(given.env);
  if (names.length > 0 && environment === null) {
    environment = {};
    expose(globalThis, "process", { env: environment });
  }
  for (let i = 0; i < names.length; i++) expose(environment, names[i], given.env[names[i]], true);
}

// The script that LOAD named was compiled: this is the promise of its end.
export function adopt(promise) {
  follow(promise, () => finish(true, undefined), fail);
}

// The module that LOAD_FILE named was compiled: when it has run, its exports become globals.
export function adoptModule(promise, name) {
  const publish = guarded((namespace) => {
    const names = objectKeys(namespace);
    for (let i = 0; i < names.length; i++) {
      if (names[i] !== "default") expose(globalThis, names[i], namespace[names[i]], true);
    }
    finish(true, undefined);
  });
  follow(promise, () => follow(import(name), publish, fail), fail);
}

// A module that has run lets its names be looked up; see `_SCOPE` in port.py.
expose(globalThis, SymbolFor("isola.scope"), (scope) => {
  if (typeof scope === "function") ArrayPush(scopes, scope);
});

// The source did not compile, or could not be read.
export function refuse(thrown) {
  fail(thrown);
}

// As `refuse`, for a failure of the host's making.
export function refuseWith(type, message) {
  fail(namedError(type, message));
}

// This file itself failed: memory or stack ran out where no guest code could have caught it.
export function collapse(thrown) {
  if (phase === IDLE) return;
  settled = true;
  succeeded = false;
  outcome = thrown;
}
