// Waits: the guest's `Promise`, and the promises that only guest code could settle.
//
// A cancelled run must see the promise that it awaits rejected, but only its executor can reject a promise made by
// `new Promise`. So the guest's `Promise` is the class in this module: it makes promises of the engine's own class, and
// keeps their `reject` until they are settled. Nothing else of a promise changes. Async functions, `then`, hostcalls and
// static methods make promises without it, at the engine's cost; those settle when the promise that they wait for does.
// `Promise.prototype.constructor` therefore stays the engine's class: with another one, each `await` of a promise would
// wrap it once more.
//
// When a call is over, its promises are rejected. Promises of a script may be state for later calls (a `ready` that a
// later call resolves), so when a script is over only the *lost* ones are rejected: those whose `resolve` and `reject`
// nothing refers to any more, because a timer did, for example, and was dropped. The engine counts references, so a
// weak reference is dead at once.

import {
  ArrayPush,
  Map,
  MapClear,
  MapDelete,
  MapForEach,
  MapSet,
  MapSize,
  Promise as Native,
  TypeError,
  WeakRef,
  WeakRefDeref,
  construct,
  defineProperty,
  expose,
  max,
  objectKeys,
  uncurry,
} from "isola:primordials";
import { abortError } from "isola:errors";

const SWEEP_EVERY = 1024; // promises; a guess, as are the next two
const MOST_LOST = 1024; // the oldest are kept: a wait that never ends began early
const MOST_MADE = 8192; // the latest are kept: an older one may be reachable from nothing but who waits for it

// Keys are the engine's `reject` functions of pending promises.
const made = new Map(); // in this run -> the `resolve` that the guest was given
const lost = new Map(); // in this run, and nothing can settle them any more -> undefined
const kept = new Map(); // in earlier scripts -> undefined
let untilSweep = SWEEP_EVERY;

let nativeResolve;
let nativeReject;
const capture = (resolve, reject) => {
  nativeResolve = resolve;
  nativeReject = reject;
};
const captureAlone = [capture];

function untrack(reject) {
  if (!MapDelete(made, reject)) MapDelete(kept, reject);
}

// Make a promise of the class, and return `use(promise, resolve, reject, extra)`.
function make(Class, use, extra) {
  if (--untilSweep === 0) sweep();
  const promise = Class === Promise ? new Native(capture) : construct(Native, captureAlone, Class);
  const resolve = nativeResolve;
  const reject = nativeReject;
  nativeResolve = nativeReject = undefined; // they hold the promise, which may come to hold much
  const giveResolve = (value) => {
    untrack(reject);
    resolve(value);
  };
  const giveReject = (reason) => {
    untrack(reject, giveResolve); // unused there; it makes giveReject hold giveResolve, so that one weak reference tells of both
    reject(reason);
  };
  MapSet(made, reject, giveResolve);
  return use(promise, giveResolve, giveReject, extra);
}

function execute(promise, resolve, reject, executor) {
  try {
    executor(resolve, reject);
  } catch (error) {
    reject(error);
  }
  return promise;
}

export function Promise(executor) {
  if (new.target === undefined) throw new TypeError("Promise must be called with new");
  if (typeof executor !== "function") throw new TypeError("Promise: the executor must be a function");
  return make(new.target, execute, executor);
}

// --- the class's own functions -------------------------------------------------------------------------------------

const engines = (Class) => (Class === Promise ? Native : Class); // a subclass of the guest's is used as it is
const withParts = (promise, resolve, reject) => ({ promise, resolve, reject });
const nativeTry = uncurry(Native.try);
const nativeWithResolvers = uncurry(Native.withResolvers);
const statics = {
  try(callback, ...args) {
    return nativeTry(engines(this), callback, ...args);
  },
  withResolvers() {
    return this === Promise ? make(Promise, withParts) : nativeWithResolvers(this);
  },
};
for (const name of ["all", "allSettled", "any", "race", "reject", "resolve"]) {
  const native = uncurry(Native[name]);
  const method = {
    [name](value) {
      return native(engines(this), value);
    },
  };
  statics[name] = method[name];
}
for (const name of objectKeys(statics)) expose(Promise, name, statics[name]);
const species = {
  __proto__: null,
  get() {
    return this;
  },
  configurable: true,
};
defineProperty(Promise, Symbol.species, species);
defineProperty(Promise, "prototype", { __proto__: null, value: Native.prototype, writable: false });

// --- the end of waiting --------------------------------------------------------------------------------------------

// Find the lost promises, and forget all but the oldest of them: each race that is over leaves one. Runs again after as
// many new promises as are left, so that its cost is spread over them.
function sweep() {
  const rejects = [];
  const refs = [];
  MapForEach(made, (resolve, reject) => {
    ArrayPush(rejects, reject);
    ArrayPush(refs, new WeakRef(resolve));
  });
  MapClear(made);
  for (let i = 0; i < rejects.length; i++) {
    const resolve = WeakRefDeref(refs[i]);
    if (resolve !== undefined) MapSet(made, rejects[i], resolve);
    else if (MapSize(lost) < MOST_LOST) MapSet(lost, rejects[i], undefined);
  }
  let over = MapSize(made) - MOST_MADE;
  if (over > 0) MapForEach(made, (_, reject) => over-- > 0 && MapDelete(made, reject));
  untilSweep = max(SWEEP_EVERY, MapSize(made));
}

function take(waits, rejects) {
  MapForEach(waits, (_, reject) => ArrayPush(rejects, reject));
  MapClear(waits);
  return rejects;
}

// Reject all with one error, because there may be very many; true when there was one.
function rejectAll(rejects, message) {
  if (rejects.length === 0) return false;
  const reason = abortError(message);
  for (let i = 0; i < rejects.length; i++) rejects[i](reason);
  return true;
}

export function rejectMade(message) {
  return rejectAll(take(made, take(lost, [])), message);
}

export function rejectKept(message) {
  return rejectAll(take(kept, []), message);
}

// A script is over: reject its lost promises.
export function rejectLost(message) {
  sweep();
  return rejectAll(take(lost, []), message);
}

// ... and keep the rest.
export function keep() {
  const rejects = take(made, []);
  for (let i = 0; i < rejects.length; i++) MapSet(kept, rejects[i], undefined);
  MapClear(lost);
}

// A call is over: forget the promises that its last steps made.
export function forget() {
  MapClear(made);
  MapClear(lost);
}
