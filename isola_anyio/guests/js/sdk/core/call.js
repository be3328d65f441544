// Call: the outermost function of a run, and the iterator that it may return.

import {
  ArrayPush,
  ArraySplice,
  TypeError,
  apply,
  asyncIterator,
  expose,
  isArray,
  objectKeys,
} from "isola:primordials";
import { encode } from "isola:codec";
import { EMIT, callDoorWithValue } from "isola:door";
import { lookup } from "isola:names";
import * as ops from "isola:ops";
import { follow, isObject, isThenable } from "isola:promises";
import { RUNNING, continuing, failing, settle } from "isola:run";

// `request` is CALL's body: the function's name, positional arguments, named ones, and where stream arguments belong.
export function call(self, request) {
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

// An iterator is streamed; any other value settles the run.
function conclude(self, value) {
  if (isObject(value) && !isArray(value)) {
    if (typeof value.next === "function") return stream(self, value);
    const open = value[asyncIterator];
    if (typeof open === "function") return stream(self, apply(open, value, []));
  }
  settle(self, true, value);
}

// --- the iterator ------------------------------------------------------------------------------------------------

function stream(self, iterator) {
  self.iterator = iterator;
  self.next = iterator.next;
  pull(self);
}

// Emit items until the host's queue is over its high-water mark, or an item is a promise that has to be awaited.
export function pull(self) {
  while (self.room && self.phase === RUNNING && !self.settled) {
    const result = apply(self.next, self.iterator, []);
    if (isThenable(result)) {
      self.pulling = true;
      follow(result, continuing(self, arrived), failing(self));
      return;
    }
    if (!take(self, result)) return;
  }
}

function arrived(self, result) {
  self.pulling = false;
  if (take(self, result)) pull(self);
}

// Emit one result of `next`; false when the stream is over, or continues when a promise has settled.
function take(self, result) {
  if (!isObject(result)) throw new TypeError("iterator result is not an object");
  const value = result.value;
  if (result.done) {
    if (isThenable(value)) follow(value, (final) => settle(self, true, final), failing(self));
    else settle(self, true, value);
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
    const body = encode(value === undefined ? null : value, ops.maxPayload);
    if (callDoorWithValue(EMIT, self.number, "", body) === false) self.room = false;
  } catch (error) {
    settle(self, false, error);
    closeIterator(self);
  }
}

// Call the iterator's `return`, so that a generator runs its `finally` blocks.
export function closeIterator(self) {
  self.closed = true;
  try {
    const close = self.iterator.return;
    if (typeof close !== "function") return;
    const answer = apply(close, self.iterator, []);
    if (isThenable(answer)) follow(answer, () => settle(self, true, undefined), failing(self));
    else settle(self, true, undefined);
  } catch (error) {
    settle(self, false, error);
  }
}
