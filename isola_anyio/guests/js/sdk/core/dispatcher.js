// Dispatcher: what the guest does with each message of the host, and how a turn ends.
//
// The host delivers a message to `dispatch`, runs the microtasks, and calls `pump` until that returns false. `pump`
// fires one due timer, or takes one step of wrapping up a settled run, and returns true so that the microtasks run
// again; or it ends the turn with DONE, FAIL or PARK. `run.js` has the states of a run.

import {
  StringCharCodeAt,
  StringIndexOf,
  StringSlice,
  expose,
  jsonStringify,
  max,
  now,
  objectKeys,
} from "isola:primordials";
import { call, closeIterator, pull } from "isola:call";
import { decode, encode, isPayloadLimit } from "isola:codec";
import { DONE, FAIL, PARK, callDoor, callDoorWithValue } from "isola:door";
import { abortError, describe } from "isola:errors";
import { forgetRejections, reportLost, reportRejections } from "isola:logs";
import { forgetNames } from "isola:names";
import * as ops from "isola:ops";
import { restartClock } from "isola:performance";
import { seedRandom } from "isola:random";
import { CANCELLED, CANCELLED_MESSAGE, ENDING, RUNNING, begin, cancel, clear, continuing, run, wrapUp } from "isola:run";
import * as timers from "isola:timers";
import * as waits from "isola:waits";

const SETUP = 0x01;
const LOAD = 0x02;
const LOAD_FILE = 0x03;
const CALL = 0x04;
const RESUME = 0x05;
const CANCEL = 0x06;
const PRELUDE = 0x07;
const FREEZE = 0x08;

const NO_MEMORY = '{"type":"InternalError","message":"out of memory","traceback":"","limit":"memory"}';
const BROKEN = '{"type":"Error","message":"the failure could not be described","traceback":"","limit":null}';

let turnStart = 0;
let environment = null; // `process.env`, once there is a variable: the template's, overridden by the sandbox's

// --- messages ----------------------------------------------------------------------------------------------------

export function dispatch(frame, bytes) {
  const kind = StringCharCodeAt(frame, 0);
  const blank = StringIndexOf(frame, " ");
  const number = +StringSlice(frame, 1, blank);
  const body = bytes === undefined ? StringSlice(frame, blank + 1) : bytes;
  turnStart = timers.pendingTimers() > 0 ? now() : 0; // asking the time costs a call of the host
  if (kind === CALL) {
    forgetRejections();
    continuing(begin(number, false), (self) => call(self, decode(body)))();
  } else if (kind === RESUME) {
    if (run !== null && run.number === number) resume(run, body, bytes !== undefined);
  } else if (kind === CANCEL) {
    if (run !== null && run.number === number) cancel(run);
  } else if (kind === LOAD || kind === LOAD_FILE || kind === PRELUDE) {
    forgetRejections();
    begin(number, true); // the host evaluates the source next, and calls a function of scripts.js
  } else if (kind === SETUP) {
    setup(decode(body));
  } else if (kind === FREEZE) {
    forgetNames();
    forgetRejections();
  }
}

function resume(self, completions, isBinary) {
  if (isBinary) ops.settleBytes(completions);
  else ops.settleText(completions);
  if (self.room) return;
  self.room = true;
  if (self.iterator !== null && !self.pulling) continuing(self, pull)();
}

function setup(options) {
  ops.limitPayload(options.max_payload);
  seedRandom(options.seed);
  restartClock();
  const names = objectKeys(options.env);
  if (names.length > 0 && environment === null) {
    environment = {};
    expose(globalThis, "process", { env: environment });
  }
  for (let i = 0; i < names.length; i++) expose(environment, names[i], options.env[names[i]], true);
}

// --- the end of a turn -------------------------------------------------------------------------------------------

// Called when no microtask is left. True: run the microtasks and call again. False: the turn is over.
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
    // Cancelled and still not settled: it awaits a promise that an earlier script made.
    if (waits.rejectKept(CANCELLED_MESSAGE)) return true;
    self.settled = true; // nothing is left that could wake it
  }
  if (wrapUp(self)) return true;
  end(self);
  return false;
}

function park(self) {
  const due = timers.nextDue();
  const seconds = due < 0 ? -1 : max(0, due - now()) / 1000;
  const waitsForRoom = !self.room && self.iterator !== null && !self.pulling && self.phase === RUNNING;
  callDoor(PARK, self.number, seconds + " " + (waitsForRoom ? 1 : 0));
}

// --- the end of a run --------------------------------------------------------------------------------------------

function end(self) {
  if (self.cancelled) {
    self.succeeded = false;
    self.outcome = abortError(CANCELLED_MESSAGE);
  }
  let kind = FAIL;
  let body;
  if (self.succeeded) {
    try {
      body = encode(self.outcome === undefined ? null : self.outcome, ops.maxPayload);
      kind = DONE;
    } catch (error) {
      self.outcome = error;
    }
  }
  if (kind === FAIL) body = describeFailure(self.outcome);
  clear();
  forgetRejections();
  if (self.isScript) waits.keep();
  else waits.forget();
  try {
    callDoorWithValue(kind, self.number, "", body);
  } catch {
    callDoor(FAIL, self.number, NO_MEMORY);
  }
}

function describeFailure(thrown) {
  try {
    const described = describe(thrown);
    if (isPayloadLimit(thrown)) described.limit = "payload";
    return jsonStringify(described);
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

// A function that the host called threw: memory or stack ran out where no guest code could have caught it.
export function collapse(thrown) {
  if (run === null) return;
  run.settled = true;
  run.succeeded = false;
  run.outcome = thrown;
}
