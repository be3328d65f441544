// Errors: the description of a thrown value for the host, and errors that the SDK makes itself.
//
// A thrown value is the guest's: reading it may run getters, and those may throw. Every read is guarded, so that a
// failure is always described, if only by its type.

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

const MAX_INNER = 8; // errors described beside one: causes, members of an AggregateError
const MAX_TEXT = 16384; // characters of a message or a traceback that cross; a guess
const SDK = "(isola:";
const SDK_BARE = "at isola:";
const plainFrame = /^\s*at .*:\d+(?::\d+)?\)?$/;

// The AbortErrors that the SDK made: their unhandled rejections at a run's end are not reported.
const ours = new WeakSet();

export function abortError(message) {
  const error = new DOMException(message, "AbortError");
  WeakSetAdd(ours, error);
  return error;
}

export function isOurAbort(value) {
  return typeof value === "object" && value !== null && WeakSetHas(ours, value);
}

// An Error whose `name` is not its class's.
export function namedError(name, message) {
  const error = new Error(message);
  defineProperty(error, "name", { __proto__: null, value: name, writable: true, configurable: true, enumerable: false });
  return error;
}

// The frames of a stack that are of the user's own files, one a line.
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

// The type of an error: the nearest own `name` on the prototype chain, or the nearest class's name.
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
    // A getter of the guest threw; fall through.
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

// Add lines about the errors inside an error, recursively: causes, the errors of an AggregateError, both of a
// SuppressedError. `described` are those that have their line already.
function describeInner(error, lines, described) {
  const add = (label, inner) => {
    if (inner === undefined || inner === null || described.length > MAX_INNER) return;
    for (let i = 0; i < described.length; i++) if (described[i] === inner) return;
    ArrayPush(described, inner);
    const isErrorLike = looksLikeError(inner);
    ArrayPush(lines, label + ": " + (isErrorLike ? headline(inner) : safeInspect(inner)));
    if (!isErrorLike) return;
    const frames = userFrames(readText(inner, "stack"));
    if (frames !== "") ArrayPush(lines, frames);
    describeInner(inner, lines, described);
  };
  add("Caused by", read(error, "cause"));
  if (typeName(error) === "SuppressedError") {
    add("Caused by", read(error, "error"));
    add("Suppressed", read(error, "suppressed"));
  }
  const errors = read(error, "errors");
  const count = isArray(errors) ? read(errors, "length") : 0; // of a proxy it may be anything
  for (let i = 0; typeof count === "number" && i < count && i < MAX_INNER; i++) add(`Error ${i + 1} of ${count}`, read(errors, i));
}

// The body of FAIL: {type, message, traceback, limit}.
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
  describeInner(thrown, lines, [thrown]);
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

// "TypeError: message".
export function headline(error) {
  const type = typeName(error);
  const message = readText(error, "message");
  return message === "" ? type : StringStartsWith(message, type + ": ") ? message : type + ": " + message;
}

// A thrown value as a log shows it: headline and frames of an error, any other value as `inspect` does.
export function report(thrown) {
  if (!looksLikeError(thrown)) return safeInspect(thrown);
  const { traceback } = describe(thrown);
  const head = headline(thrown);
  return traceback ? head + "\n" + traceback : head;
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
