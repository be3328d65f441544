// Timers: `setTimeout` and its kin, in a heap inside the guest.
//
// The host learns only how long the guest may sleep (PARK). A turn fires the timers that were due when it began, one
// at a time, with the microtasks between them.

import {
  ArrayPop,
  ArrayPush,
  ArraySlice,
  Map,
  MapClear,
  MapDelete,
  MapGet,
  MapSet,
  MapSize,
  Number,
  TypeError,
  apply,
  now,
  trunc,
} from "isola:primordials";

const LONGEST_MS = 0x7fffffff; // 24 days, as in browsers; a longer delay becomes this one
const SHORTEST_MS = 1; // as in browsers and Node.js: an interval of 0 must not starve everything else

const FEW = 64; // removed timers that are not worth compacting; a guess

// A binary heap by `due`, then by `arrival`. A removed timer stays in it until it comes to the top, or removed ones are
// more than half of it: clearing a timer costs no search.
const heap = [];
const known = new Map(); // number -> timer, of timers neither removed nor fired
let last = 0;
let arrivals = 0;
let taking = true;

// A run begins.
export function open() {
  taking = true;
  dropAll();
}

// A run is over: a new timer gets a number and never fires.
export function close() {
  taking = false;
}

export function dropAll() {
  heap.length = 0;
  MapClear(known);
}

export function pendingTimers() {
  return MapSize(known);
}

export function nextDue() {
  const timer = first();
  return timer === undefined ? -1 : timer.due;
}

function isKnown(timer) {
  return MapGet(known, timer.number) === timer;
}

function isBefore(one, other) {
  return one.due < other.due || (one.due === other.due && one.arrival < other.arrival);
}

function rise(timer, from) {
  let at = from;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (!isBefore(timer, heap[parent])) break;
    heap[at] = heap[parent];
    at = parent;
  }
  heap[at] = timer;
}

function sink(timer, from) {
  const count = heap.length;
  let at = from;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= count) break;
    if (child + 1 < count && isBefore(heap[child + 1], heap[child])) child++;
    if (!isBefore(heap[child], timer)) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = timer;
}

function insert(timer) {
  timer.due = now() + timer.delay;
  timer.arrival = ++arrivals;
  ArrayPush(heap, timer);
  rise(timer, heap.length - 1);
}

function dropFirst() {
  const moved = ArrayPop(heap);
  if (heap.length > 0) sink(moved, 0);
}

// The timer that is due first; undefined for none.
function first() {
  while (heap.length > 0) {
    if (isKnown(heap[0])) return heap[0];
    dropFirst();
  }
  return undefined;
}

function compact() {
  let count = 0;
  for (let i = 0; i < heap.length; i++) if (isKnown(heap[i])) heap[count++] = heap[i];
  heap.length = count;
  for (let i = (count >> 1) - 1; i >= 0; i--) sink(heap[i], i);
}

// Add a timer; also for the SDK itself.
export function addTimer(callback, delayMs, repeat, args) {
  let delay = trunc(Number(delayMs));
  if (!(delay >= SHORTEST_MS)) delay = SHORTEST_MS;
  if (delay > LONGEST_MS) delay = LONGEST_MS;
  const number = ++last;
  if (!taking) return number;
  const timer = { __proto__: null, number, callback, args, delay, repeat, due: 0, arrival: 0 };
  MapSet(known, number, timer);
  insert(timer);
  return number;
}

export function removeTimer(number) {
  const timer = MapGet(known, number);
  if (timer === undefined) return;
  MapDelete(known, number);
  timer.callback = timer.args = undefined; // frees what only the timer refers to before the heap drops it
  if (heap.length > 2 * MapSize(known) + FEW) compact();
}

// Fire the first timer due by `moment`; false when there is none. Throws what its callback throws.
export function fireOne(moment) {
  const timer = first();
  if (timer === undefined || timer.due > moment) return false;
  const { callback, args } = timer;
  dropFirst();
  if (timer.repeat) insert(timer);
  else MapDelete(known, timer.number);
  apply(callback, undefined, args);
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
