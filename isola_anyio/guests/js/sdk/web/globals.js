// Globals: the names of the web platform that a guest finds, writable, configurable and not enumerable.

import { expose, apply } from "isola:primordials";
import { AbortController, AbortSignal } from "isola:abort";
import { Crypto, crypto } from "isola:crypto";
import { Event, EventTarget } from "isola:events";
import { TextDecoder, TextEncoder, atob, btoa } from "isola:encoding";
import { URL } from "isola:url";
import { URLSearchParams } from "isola:url_params";
import { clearInterval, clearTimeout, setInterval, setTimeout } from "isola:timers";
import { console } from "isola:console";
import { reportLost } from "isola:logs";
import { hostcall } from "isola:ops";
import { performance } from "isola:performance";
import { random } from "isola:random";
import { structuredClone } from "isola:structured_clone";
import { Promise } from "isola:waits";

const enqueue = globalThis.queueMicrotask;

// The engine ignores an exception in a microtask; this one reports it.
function queueMicrotask(callback) {
  if (typeof callback !== "function") throw new TypeError("queueMicrotask: the argument must be a function");
  enqueue(() => {
    try {
      apply(callback, undefined, []);
    } catch (error) {
      reportLost("Uncaught ", error);
    }
  });
}

const globals = {
  AbortController,
  AbortSignal,
  Crypto,
  Event,
  EventTarget,
  Promise,
  TextDecoder,
  TextEncoder,
  URL,
  URLSearchParams,
  atob,
  btoa,
  clearInterval,
  clearTimeout,
  console,
  crypto,
  hostcall,
  performance,
  queueMicrotask,
  setInterval,
  setTimeout,
  structuredClone,
};
for (const name of Object.keys(globals)) expose(globalThis, name, globals[name]);
expose(Math, "random", random);
