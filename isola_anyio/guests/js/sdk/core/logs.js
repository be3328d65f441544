// Logs: lines for the host's log, and reports of failures that nobody handles.

import { ArrayPush, Map, MapClear, MapDelete, MapForEach, MapSet, MapSize, StringToWellFormed } from "isola:primordials";
import { LOG, callDoor } from "isola:door";
import { abortError, isOurAbort, report } from "isola:errors";
import { CANCELLED_MESSAGE, RUNNING, cancel, run } from "isola:run";

const ERROR_LEVEL = 3;

const rejected = new Map(); // promises rejected in this run and not handled yet -> reason

// Throws an AbortError when the host answers that the run was cancelled while it computed: code that logs in a loop
// learns of its cancellation here, and unwinds.
export function log(level, text) {
  const self = run;
  if (self === null) return;
  const reply = callDoor(LOG, self.number, level + StringToWellFormed(text));
  if (reply === false) {
    self.room = false;
  } else if (reply === undefined && self.phase === RUNNING) {
    cancel(self);
    throw abortError(CANCELLED_MESSAGE);
  }
}

export function reportLost(what, thrown) {
  try {
    log(ERROR_LEVEL, what + report(thrown));
  } catch {
    // Cancelled meanwhile; the run ends by that.
  }
}

// The engine's hook: a promise was rejected without a handler, or (`handled`) got its first handler after that.
export function onRejection(promise, reason, handled) {
  try {
    if (handled) MapDelete(rejected, promise);
    else if (run !== null) MapSet(rejected, promise, reason);
  } catch {
    // No memory to note it.
  }
}

export function forgetRejections() {
  MapClear(rejected);
}

// Rejections with our own AbortErrors are not reported once the run is cancelled or ending.
export function reportRejections(self) {
  if (MapSize(rejected) === 0) return;
  const reasons = [];
  MapForEach(rejected, (reason) => ArrayPush(reasons, reason));
  MapClear(rejected);
  for (let i = 0; i < reasons.length; i++) {
    if (self.phase === RUNNING || !isOurAbort(reasons[i])) reportLost("Unhandled rejection: ", reasons[i]);
  }
}
