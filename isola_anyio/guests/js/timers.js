// When does the guest want to be woken?
//
// Timers are kept in the order in which they fall due, in the guest; the host learns only how long it may let the
// guest sleep. A turn fires the timers that were due when it began, one at a time, with the microtasks between them.

import {
  ArraySlice,
  ArraySplice,
  Map,
  MapClear,
  MapDelete,
  MapGet,
  MapSet,
  Number,
  TypeError,
  apply,
  now,
  trunc,
} from "isola:primordials";

const LONGEST_MS = 0x7fffffff; // 24 days, as elsewhere; longer ones wait that long
const SHORTEST_MS = 1; // as browsers and servers have it: an interval of 0 must not starve everything else

const queue = []; // by due, then by number
const known = new Map();
let last = 0;
let taking = true;

// A run begins.
export function open() {
  taking = true;
  queue.length = 0;
  MapClear(known);
}

// A run is over: new timers are numbered and forgotten.
export function close() {
  taking = false;
}

export function pendingTimers() {
  return queue.length;
}

export function nextDue() {
  return queue.length === 0 ? -1 : queue[0].due;
}

export function dropAll() {
  queue.length = 0;
  MapClear(known);
}

function insert(timer) {
  let low = 0;
  let high = queue.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (queue[middle].due <= timer.due) low = middle + 1;
    else high = middle;
  }
  ArraySplice(queue, low, 0, timer);
}

// A timer of the SDK's own, which takes no delay but the one it is given.
export function addTimer(callback, delayMs, repeat, args) {
  let delay = trunc(Number(delayMs));
  if (!(delay >= SHORTEST_MS)) delay = SHORTEST_MS;
  if (delay > LONGEST_MS) delay = LONGEST_MS;
  const number = ++last;
  if (!taking) return number;
  const timer = { number, callback, args, due: now() + delay, interval: repeat ? delay : 0 };
  MapSet(known, number, timer);
  insert(timer);
  return number;
}

export function removeTimer(number) {
  const timer = MapGet(known, number);
  if (timer === undefined) return;
  MapDelete(known, number);
  for (let i = 0; i < queue.length; i++) {
    if (queue[i] === timer) {
      ArraySplice(queue, i, 1);
      return;
    }
  }
}

// Fire the first timer due by `moment`; false when there is none. What it throws is the caller's.
export function fireOne(moment) {
  const timer = queue.length === 0 ? undefined : queue[0];
  if (timer === undefined || timer.due > moment) return false;
  ArraySplice(queue, 0, 1);
  if (timer.interval > 0 && MapGet(known, timer.number) === timer) {
    timer.due = now() + timer.interval;
    insert(timer);
  } else {
    MapDelete(known, timer.number);
  }
  apply(timer.callback, undefined, timer.args);
  return true;
}

function start(what, args, repeat) {
  const callback = args[0];
  if (typeof callback !== "function") {
    throw new TypeError(`${what}: the first argument must be a function, not ${callback === null ? "null" : typeof callback}`);
  }
  return addTimer(callback, args.length > 1 ? args[1] : 0, repeat, ArraySlice(args, 2));
}

export function setTimeout(callback, delay) {
  return start("setTimeout", arguments, false);
}

export function setInterval(callback, delay) {
  return start("setInterval", arguments, true);
}

export function clearTimeout(number) {
  removeTimer(typeof number === "number" ? number : Number(number));
}

export function clearInterval(number) {
  clearTimeout(number);
}
