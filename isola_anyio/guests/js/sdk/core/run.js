// Run: the record of the run under way, and how it is settled, cancelled and wrapped up.
//
//   LOAD, CALL --> RUNNING ----CANCEL----> CANCELLED
//                     |  settled               |  settled, or nothing is left that could wake it
//                     v                        v
//                  ENDING: pending operations and timers are dropped, their promises rejected; microtasks run,
//                          then DONE or FAIL (dispatcher.js)
//
// A run is settled when its outermost function has returned or thrown, and what that returned has settled.
//
// Every continuation belongs to a run and does nothing once that run is over: what an earlier run left behind, a
// `resolve` kept in a global for instance, cannot act for the next one.

import { abortError } from "isola:errors";
import * as ops from "isola:ops";
import * as timers from "isola:timers";
import * as waits from "isola:waits";

export const RUNNING = 1;
export const CANCELLED = 2;
export const ENDING = 3;

export const CANCELLED_MESSAGE = "the run was cancelled";

export let run = null; // the run under way

export function begin(number, isScript) {
  run = {
    __proto__: null,
    number,
    isScript,
    phase: RUNNING,
    wrappedUp: false, // a script's lost promises have been rejected
    cancelled: false,
    settled: false,
    succeeded: false,
    outcome: undefined, // the value, or what was thrown
    room: true, // the host's event queue is below its high-water mark
    iterator: null, // what is being streamed
    next: undefined, // its `next`
    closed: false, // its `return` was called
    pulling: false, // its `next` has not answered yet
  };
  ops.open();
  timers.open();
  return run;
}

export function clear() {
  run = null;
}

export function settle(self, success, value) {
  if (self !== run || self.settled) return;
  self.settled = true;
  self.succeeded = success;
  self.outcome = value;
}

// A continuation of a run: it does nothing when that run is over, and its failure is the run's.
export function continuing(self, step) {
  return (value) => {
    if (self !== run) return;
    try {
      step(self, value);
    } catch (error) {
      settle(self, false, error);
    }
  };
}

export const failing = (self) => (reason) => settle(self, false, reason);

// Drop the run's pending operations and timers; true when a promise was rejected by it.
function dropPending(message) {
  timers.dropAll();
  return ops.dropAll(message);
}

export function cancel(self) {
  if (self.phase !== RUNNING) return;
  self.phase = CANCELLED;
  self.cancelled = true;
  dropPending(CANCELLED_MESSAGE);
  waits.rejectMade(CANCELLED_MESSAGE);
}

// One step of wrapping up a settled run, each taken once whatever the guest does meanwhile; true when microtasks must
// run before the next step, false when there is none left.
export function wrapUp(self) {
  if (self.phase !== ENDING) {
    self.phase = ENDING;
    timers.close();
    ops.close();
    const dropped = dropPending(ops.OVER_MESSAGE);
    if ((!self.isScript && waits.rejectMade(ops.OVER_MESSAGE)) || dropped) return true;
  }
  if (!self.isScript || self.wrappedUp) return false;
  // In this order: the microtasks have run since a hostcall was dropped, so promises that hung on it are lost by now.
  self.wrappedUp = true;
  return waits.rejectLost(ops.OVER_MESSAGE);
}
