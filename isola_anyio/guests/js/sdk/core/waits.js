// What does the guest wait for that only its own code could end?
//
// A cancelled run must see what it awaits rejected, but nobody else can reject a promise that `new Promise` made. So
// the guest's `Promise` is this one: it makes promises of the engine's own class, and keeps their `reject` until they
// are settled. Nothing else of a promise changes. Async functions, `then`, hostcalls and the class's own functions make
// theirs without it, at the engine's cost; these end when what they wait for does. For that `Promise.prototype
// .constructor` stays the engine's class: with another one there, each `await` of a promise would wrap it once more.
//
// When a run is over, its promises are rejected. Not so a script's, which may be state for later calls (a `ready` that
// a later one resolves): of these only the *lost* ones, which nothing refers to that could settle them; the timer did,
// for example, and was dropped. The engine counts references, so a weak one tells at once.

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

const SWEEP_EVERY = 1024; // promises; a guess, as are the next
const MOST_LOST = 1024; // the oldest, because what waits for good began early
const MOST_MADE = 8192; // the latest; older ones may be reachable from nothing but who waits for them

// Each is a promise's `reject`. What was made in this run is held with the `resolve` that the guest was given.
const made = new Map();
const lost = new Map(); // ... of this run's that nothing can settle any more
const kept = new Map(); // ... of earlier scripts'
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

// Make a promise of the class, and `use` it with its functions and `extra`.
function make(Class, use, extra) {
  if (--untilSweep === 0) sweep();
  const promise = Class === Promise ? new Native(capture) : construct(Native, captureAlone, Class);
  const resolve = nativeResolve;
  const reject = nativeReject;
  nativeResolve = nativeReject = undefined; // they hold the promise, and it may come to hold much
  const giveResolve = (value) => {
    untrack(reject);
    resolve(value);
  };
  const giveReject = (reason) => {
    untrack(reject, giveResolve); // not used there, but held by this function: one weak reference tells of both
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

const engines = (Class) => (Class === Promise ? Native : Class); // a guest's subclass stays itself
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

// Find what was lost, and forget all of it but the oldest: a race that is over leaves such a promise each time. What it
// costs is spread over the promises made since.
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

// All with one error: there may be very many. True when there was one.
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

// A script is over: what is lost is rejected.
export function rejectLost(message) {
  sweep();
  return rejectAll(take(lost, []), message);
}

// ... and the rest is kept.
export function keep() {
  const rejects = take(made, []);
  for (let i = 0; i < rejects.length; i++) MapSet(kept, rejects[i], undefined);
  MapClear(lost);
}

// A call is over: what its last steps still began to wait for is nobody's.
export function forget() {
  MapClear(made);
  MapClear(lost);
}
