// What does the host learn of something that was thrown?
//
// A thrown value is a stranger's: reading it may run its getters, and those may throw. Every read is guarded, so that
// a failure is always described, if only by its type.

import {
  ArrayJoin,
  ArrayPush,
  ArraySlice,
  DOMException,
  Error,
  RegExpExec,
  String,
  StringEndsWith,
  StringIncludes,
  StringIndexOf,
  StringSlice,
  StringStartsWith,
  WeakSet,
  WeakSetAdd,
  WeakSetHas,
  defineProperty,
  getPrototypeOf,
  hasOwn,
  isArray,
  isError,
} from "isola:primordials";
import { inspect } from "isola:inspect";

const MAX_INNER = 8; // errors told behind one
const MAX_TEXT = 16384; // characters of a message or a traceback that cross; a guess
const SDK = "(isola:";
const SDK_BARE = "at isola:";
const plainFrame = /^\s*at .*:\d+(?::\d+)?\)?$/;

// The aborts that we raised ourselves: what they leave unhandled at a run's end is no news.
const ours = new WeakSet();

export function abortError(message) {
  const error = new DOMException(message, "AbortError");
  WeakSetAdd(ours, error);
  return error;
}

export function isOurAbort(value) {
  return typeof value === "object" && value !== null && WeakSetHas(ours, value);
}

// An Error with a name that is not its class's, as the platform's own failures have.
export function namedError(name, message) {
  const error = new Error(message);
  defineProperty(error, "name", { __proto__: null, value: name, writable: true, configurable: true, enumerable: false });
  return error;
}

// The frames of the user's own files, one a line.
export function userFrames(stack) {
  if (typeof stack !== "string") return "";
  const kept = [];
  let start = 0;
  while (start < stack.length) {
    let end = StringIndexOf(stack, "\n", start);
    if (end < 0) end = stack.length;
    const line = StringSlice(stack, start, end);
    start = end + 1;
    if (RegExpExec(plainFrame, line) === null) continue;
    if (StringIncludes(line, SDK) || StringIncludes(line, SDK_BARE) || StringEndsWith(line, "(native)")) continue;
    ArrayPush(kept, line);
  }
  return ArrayJoin(kept, "\n");
}

// The nearest name on the way up: an own `name`, or the class that is nearest to the value.
export function typeName(error) {
  try {
    for (let at = error, depth = 0; at !== null && depth < 32; at = getPrototypeOf(at), depth++) {
      if (hasOwn(at, "name")) {
        const name = error.name;
        if (typeof name === "string" && name !== "") return name;
      }
      if (at !== error && hasOwn(at, "constructor")) {
        const name = at.constructor.name;
        if (typeof name === "string" && name !== "") return name;
      }
    }
  } catch {
    // A stranger's getter; fall through.
  }
  return "Error";
}

function readText(value, key) {
  try {
    const text = value[key];
    return typeof text === "string" ? text : text === undefined ? "" : String(text);
  } catch {
    return "";
  }
}

function cut(text) {
  return text.length > MAX_TEXT ? StringSlice(text, 0, MAX_TEXT) + "..." : text;
}

function read(value, key) {
  try {
    return value[key];
  } catch {
    return undefined;
  }
}

// Add what is behind an error, and behind that: causes, what an AggregateError gathers, what a SuppressedError holds.
// `told` are those that need no line of their own any more.
function tellInner(error, lines, told) {
  const tell = (label, inner) => {
    if (inner === undefined || inner === null || told.length > MAX_INNER) return;
    for (let i = 0; i < told.length; i++) if (told[i] === inner) return;
    ArrayPush(told, inner);
    const known = looksLikeError(inner);
    ArrayPush(lines, label + ": " + (known ? headline(inner) : safeInspect(inner)));
    if (!known) return;
    const frames = userFrames(readText(inner, "stack"));
    if (frames !== "") ArrayPush(lines, frames);
    tellInner(inner, lines, told);
  };
  tell("Caused by", read(error, "cause"));
  if (typeName(error) === "SuppressedError") {
    tell("Caused by", read(error, "error"));
    tell("Suppressed", read(error, "suppressed"));
  }
  const errors = read(error, "errors");
  const count = isArray(errors) ? read(errors, "length") : 0; // a proxy's may be anything
  for (let i = 0; typeof count === "number" && i < count && i < MAX_INNER; i++) tell(`Error ${i + 1} of ${count}`, read(errors, i));
}

// {type, message, traceback, limit} of FAIL.
export function describe(thrown) {
  if ((typeof thrown !== "object" && typeof thrown !== "function") || thrown === null) {
    return { __proto__: null, type: "Error", message: cut(safeString(thrown)), traceback: "", limit: null };
  }
  const type = typeName(thrown);
  if (!looksLikeError(thrown)) {
    const message = readText(thrown, "message") || safeInspect(thrown);
    return { __proto__: null, type: cut(type), message: cut(message), traceback: "", limit: null };
  }
  const message = readText(thrown, "message");
  const lines = [userFrames(readText(thrown, "stack"))];
  tellInner(thrown, lines, [thrown]);
  const traceback = ArrayJoin(lines[0] === "" ? ArraySlice(lines, 1) : lines, "\n");
  const limit = type === "InternalError" && message === "out of memory" ? "memory" : null;
  return { __proto__: null, type: cut(type), message: cut(message), traceback: cut(traceback), limit };
}

export function looksLikeError(value) {
  try {
    return isError(value) || value instanceof Error || value instanceof DOMException;
  } catch {
    return false;
  }
}

export function headline(error) {
  const type = typeName(error);
  const message = readText(error, "message");
  return message === "" ? type : StringStartsWith(message, type + ": ") ? message : type + ": " + message;
}

// What a log shows of a thrown value: headline and frames for errors, the value otherwise.
export function report(thrown) {
  if (!looksLikeError(thrown)) return safeInspect(thrown);
  const told = describe(thrown);
  const head = headline(thrown);
  return told.traceback ? head + "\n" + told.traceback : head;
}

function safeString(value) {
  try {
    return String(value);
  } catch {
    return "";
  }
}

function safeInspect(value) {
  try {
    return inspect(value);
  } catch {
    return "[" + typeof value + "]";
  }
}
