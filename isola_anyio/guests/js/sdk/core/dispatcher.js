// What does the guest do with a message, and how does a run come to its end?
//
// The host delivers a frame to `dispatch`, lets the microtasks run, and calls `pump` until that says no: `pump` fires
// one due timer, or ends what a finished run left behind, and asks for the microtasks again; or it ends the turn with
// DONE, FAIL or PARK.
//
//   LOAD, CALL --> running --CANCEL--> cancelled
//                     |  outermost done    |  outermost done, or nothing left that could wake it
//                     v                    v
//                   ending: what is left is dropped and rejected, microtasks run, then DONE or FAIL
//
// Every continuation belongs to a run and does nothing once that is over: what an earlier run left behind, a `resolve`
// kept in a global for instance, cannot speak for the next.

import {
  ArrayPush,
  ArraySplice,
  Map,
  MapClear,
  MapDelete,
  MapForEach,
  MapSet,
  MapSize,
  StringCharCodeAt,
  StringIndexOf,
  StringSlice,
  StringToWellFormed,
  TypeError,
  apply,
  asyncIterator,
  defineProperty,
  expose,
  isArray,
  jsonStringify,
  max,
  now,
  objectKeys,
} from "isola:primordials";
import { abortError, describe, isOurAbort, namedError, report } from "isola:errors";
import { codec } from "isola:codec";
import { DONE, EMIT, FAIL, LOG, PARK, knock, knockValue } from "isola:door";
import { follow, isObject, isThenable } from "isola:promises";
import { forgetNames, lookup } from "isola:names";
import * as ops from "isola:ops";
import * as timers from "isola:timers";
import * as waits from "isola:waits";
import { seedRandom } from "isola:random";
import { restartClock } from "isola:performance";

const SETUP = 0x01;
const LOAD = 0x02;
const LOAD_FILE = 0x03;
const CALL = 0x04;
const RESUME = 0x05;
const CANCEL = 0x06;
const PRELUDE = 0x07;
const FREEZE = 0x08;

const RUNNING = 1;
const CANCELLED = 2;
const ENDING = 3;

const ERROR_LEVEL = 3;
const CANCELLED_MESSAGE = "the run was cancelled";
const NO_MEMORY = '{"type":"InternalError","message":"out of memory","traceback":"","limit":"memory"}';
const BROKEN = '{"type":"Error","message":"the failure could not be described","traceback":"","limit":null}';

let run = null; // the run under way
let turnStart = 0;
let environment = null; // `process.env`, once there is a variable: the template's, and over them the sandbox's
const rejected = new Map(); // promises rejected and not handled yet -> reason

function begin(number, isScript) {
  run = {
    __proto__: null,
    number,
    isScript,
    phase: RUNNING,
    wrappedUp: false,
    cancelled: false,
    settled: false, // the outermost function has ended
    succeeded: false,
    outcome: undefined, // its value, or what it threw
    room: true, // the host takes another event
    iterator: null, // what is being streamed
    next: undefined,
    closed: false, // ... and was asked to stop
    pulling: false, // its `next` has not answered yet
  };
  MapClear(rejected);
  ops.open();
  timers.open();
  return run;
}

function finish(self, success, value) {
  if (self !== run || self.settled) return;
  self.settled = true;
  self.succeeded = success;
  self.outcome = value;
}

// A continuation of the run: none when that is over, and its own failure is the run's.
function continuing(self, step) {
  return (value) => {
    if (self !== run) return;
    try {
      step(self, value);
    } catch (error) {
      finish(self, false, error);
    }
  };
}

const failing = (self) => (reason) => finish(self, false, reason);

// --- the outermost function --------------------------------------------------------------------------------------

function call(self, request) {
  const name = request[0];
  const args = request[1];
  const named = request[2];
  const streams = request[3];
  for (let i = 0; i < streams.length; i++) {
    const place = streams[i][0];
    const stream = new ops.Stream(streams[i][1]);
    if (typeof place === "number") ArraySplice(args, place, 0, stream);
    else expose(named, place, stream, true);
  }
  if (objectKeys(named).length > 0) ArrayPush(args, named);
  const target = lookup(name);
  if (typeof target !== "function") throw new TypeError(`${name} is not a function`);
  const value = apply(target, undefined, args);
  if (isThenable(value)) follow(value, continuing(self, conclude), failing(self));
  else conclude(self, value);
}

function conclude(self, value) {
  if (isObject(value) && !isArray(value)) {
    if (typeof value.next === "function") return stream(self, value);
    const open = value[asyncIterator];
    if (typeof open === "function") return stream(self, apply(open, value, []));
  }
  finish(self, true, value);
}

function stream(self, iterator) {
  self.iterator = iterator;
  self.next = iterator.next;
  pull(self);
}

// Take items while the host has room and they come without waiting.
function pull(self) {
  while (self.room && self.phase === RUNNING && !self.settled) {
    const result = apply(self.next, self.iterator, []);
    if (isThenable(result)) {
      self.pulling = true;
      follow(result, continuing(self, arrived), failing(self));
      return;
    }
    if (!took(self, result)) return;
  }
}

function arrived(self, result) {
  self.pulling = false;
  if (took(self, result)) pull(self);
}

// Emit one result of `next`; false when the stream is over, or goes on by itself later.
function took(self, result) {
  if (!isObject(result)) throw new TypeError("iterator result is not an object");
  const value = result.value;
  if (result.done) {
    if (isThenable(value)) follow(value, (final) => finish(self, true, final), failing(self));
    else finish(self, true, value);
    return false;
  }
  if (isThenable(value)) {
    self.pulling = true;
    const late = continuing(self, (_, item) => {
      self.pulling = false;
      emit(self, item);
      pull(self);
    });
    follow(value, late, failing(self));
    return false;
  }
  emit(self, value);
  return !self.settled;
}

function emit(self, value) {
  if (self.phase !== RUNNING) return;
  try {
    const body = codec.encode(value === undefined ? null : value, ops.maxPayload);
    if (knockValue(EMIT, self.number, "", body) === false) self.room = false;
  } catch (error) {
    finish(self, false, error);
    closeIterator(self);
  }
}

// Let a generator run its `finally` blocks.
function closeIterator(self) {
  self.closed = true;
  try {
    const close = self.iterator.return;
    if (typeof close !== "function") return;
    const answer = apply(close, self.iterator, []);
    if (isThenable(answer)) follow(answer, () => finish(self, true, undefined), failing(self));
    else finish(self, true, undefined);
  } catch (error) {
    finish(self, false, error);
  }
}

// --- logs and lost failures ----------------------------------------------------------------------------------------

export function log(level, text) {
  const self = run;
  if (self === null) return;
  const reply = knock(LOG, self.number, level + StringToWellFormed(text));
  if (reply === false) {
    self.room = false;
  } else if (reply === undefined && self.phase === RUNNING) {
    // The run was cancelled while it computed: whoever talks is told, and unwinds.
    cancel(self);
    throw abortError(CANCELLED_MESSAGE);
  }
}

export function reportLost(what, thrown) {
  try {
    log(ERROR_LEVEL, what + report(thrown));
  } catch {
    // Cancelled meanwhile: that is the answer.
  }
}

// The engine's hook: a promise was rejected with nobody listening, or somebody came late.
export function onRejection(promise, reason, handled) {
  try {
    if (handled) MapDelete(rejected, promise);
    else if (run !== null) MapSet(rejected, promise, reason);
  } catch {
    // No memory to note it.
  }
}

function reportRejections(self) {
  if (MapSize(rejected) === 0) return;
  const reasons = [];
  MapForEach(rejected, (reason) => ArrayPush(reasons, reason));
  MapClear(rejected);
  for (let i = 0; i < reasons.length; i++) {
    if (self.phase === RUNNING || !isOurAbort(reasons[i])) reportLost("Unhandled rejection: ", reasons[i]);
  }
}

// --- cancellation and the end of a run ---------------------------------------------------------------------------

// Drop what the guest has under way; true when a promise was rejected by it.
function abandon(message) {
  timers.dropAll();
  return ops.dropAll(message);
}

function cancel(self) {
  if (self.phase !== RUNNING) return;
  self.phase = CANCELLED;
  self.cancelled = true;
  abandon(CANCELLED_MESSAGE);
  waits.rejectMade(CANCELLED_MESSAGE);
}

// A run is over: one step of what that takes, each once, whatever the guest makes of it; true: microtasks come first.
function wrapUp(self) {
  if (self.phase !== ENDING) {
    self.phase = ENDING;
    timers.close();
    ops.close();
    const dropped = abandon(ops.OVER_MESSAGE);
    if ((!self.isScript && waits.rejectMade(ops.OVER_MESSAGE)) || dropped) return true;
  }
  if (!self.isScript || self.wrappedUp) return false;
  self.wrappedUp = true; // the microtasks had their turn: what hung on a dropped hostcall is lost by now
  return waits.rejectLost(ops.OVER_MESSAGE);
}

function park(self) {
  const due = timers.nextDue();
  const seconds = due < 0 ? -1 : max(0, due - now()) / 1000;
  const waitsForRoom = !self.room && self.iterator !== null && !self.pulling && self.phase === RUNNING;
  knock(PARK, self.number, seconds + " " + (waitsForRoom ? 1 : 0));
}

// Called when the microtasks have run out; true: let them run again, and come back.
export function pump() {
  const self = run;
  if (self === null) return false;
  reportRejections(self);
  if (self.phase !== ENDING && !self.settled) {
    try {
      if (timers.fireOne(turnStart)) return true;
    } catch (error) {
      reportLost("Uncaught ", error);
      return true;
    }
    if (self.phase === CANCELLED && self.iterator !== null && !self.closed) {
      closeIterator(self);
      return true;
    }
    if (self.phase === RUNNING || ops.pendingOps() > 0 || timers.pendingTimers() > 0) {
      park(self);
      return false;
    }
    if (waits.rejectKept(CANCELLED_MESSAGE)) return true; // it must be one of these
    self.settled = true; // cancelled, and nothing is left that could wake it
  }
  if (wrapUp(self)) return true;
  end(self);
  return false;
}

function end(self) {
  if (self.cancelled) {
    self.succeeded = false;
    self.outcome = abortError(CANCELLED_MESSAGE);
  }
  let kind = FAIL;
  let body;
  if (self.succeeded) {
    try {
      body = codec.encode(self.outcome === undefined ? null : self.outcome, ops.maxPayload);
      kind = DONE;
    } catch (error) {
      self.outcome = error;
    }
  }
  if (kind === FAIL) body = describeFailure(self.outcome);
  run = null;
  MapClear(rejected);
  if (self.isScript) waits.keep();
  else waits.forget();
  try {
    knockValue(kind, self.number, "", body);
  } catch {
    knock(FAIL, self.number, NO_MEMORY);
  }
}

function describeFailure(thrown) {
  try {
    const told = describe(thrown);
    if (codec.isPayloadLimit(thrown)) told.limit = "payload";
    return jsonStringify(told);
  } catch (error) {
    return isNoMemory(error) ? NO_MEMORY : BROKEN;
  }
}

function isNoMemory(error) {
  try {
    return error.message === "out of memory";
  } catch {
    return false;
  }
}

// --- messages ----------------------------------------------------------------------------------------------------

export function dispatch(frame, bytes) {
  const kind = StringCharCodeAt(frame, 0);
  const blank = StringIndexOf(frame, " ");
  const number = +StringSlice(frame, 1, blank);
  const body = bytes === undefined ? StringSlice(frame, blank + 1) : bytes;
  turnStart = timers.pendingTimers() > 0 ? now() : 0; // asking the time costs a call of the host
  if (kind === CALL) {
    continuing(begin(number, false), (self) => call(self, codec.decode(body)))();
  } else if (kind === RESUME) {
    if (run !== null && run.number === number) resume(run, body, bytes !== undefined);
  } else if (kind === CANCEL) {
    if (run !== null && run.number === number) cancel(run);
  } else if (kind === LOAD || kind === LOAD_FILE || kind === PRELUDE) {
    begin(number, true); // the host evaluates the source and comes back with `adopt` or `refuse`
  } else if (kind === SETUP) {
    setup(codec.decode(body));
  } else if (kind === FREEZE) {
    forgetNames();
    MapClear(rejected);
  }
}

function resume(self, completions, isBinary) {
  if (isBinary) ops.settleBytes(completions);
  else ops.settleText(completions);
  if (self.room) return;
  self.room = true;
  if (self.iterator !== null && !self.pulling) continuing(self, pull)();
}

function setup(given) {
  ops.limitPayload(given.max_payload);
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
  const self = run;
  follow(promise, () => finish(self, true, undefined), failing(self));
}

// An exported `let` may change later, so the global asks the module each time, until somebody assigns to it.
function mirror(namespace, name) {
  defineProperty(globalThis, name, {
    __proto__: null,
    get: () => namespace[name],
    set: (value) => expose(globalThis, name, value, true),
    enumerable: true,
    configurable: true,
  });
}

// The module that LOAD_FILE named was compiled: when it has run, its exports become globals.
export function adoptModule(promise, name) {
  const self = run;
  const publish = continuing(self, (_, namespace) => {
    const names = objectKeys(namespace);
    for (let i = 0; i < names.length; i++) {
      if (names[i] !== "default") mirror(namespace, names[i]);
    }
    finish(self, true, undefined);
  });
  follow(promise, () => follow(import(name), publish, failing(self)), failing(self));
}

// The source did not compile, or could not be read.
export function refuse(thrown) {
  finish(run, false, thrown);
}

// As `refuse`, for a failure of the host's making.
export function refuseWith(type, message) {
  finish(run, false, namedError(type, message));
}

// This file itself failed: memory or stack ran out where no guest code could have caught it.
export function collapse(thrown) {
  if (run === null) return;
  run.settled = true;
  run.succeeded = false;
  run.outcome = thrown;
}
