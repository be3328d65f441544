// Abort: `AbortController` and `AbortSignal`. (DOM standard, section 3.)

import { addTimer } from "isola:timers";
import { Event, EventTarget, defineHandler, trust } from "isola:events";

const KEY = Symbol("constructing a signal");
// Assigned in the class below, because only code in it may use private fields. Algorithms run before the event fires.
let abortSignal;
export let addAlgorithm;
export let removeAlgorithm;

class AbortSignal extends EventTarget {
  #aborted = false;
  #reason = undefined;
  #algorithms = new Set();
  #dependents = new Set(); // signals made by `any` of this one; each lives as long as this one, unless this one aborts
  #sources = null;

  static {
    abortSignal = (signal, reason) => signal.#abort(reason);
    addAlgorithm = (signal, run) => signal.#algorithms.add(run);
    removeAlgorithm = (signal, run) => signal.#algorithms.delete(run);
  }

  constructor(key) {
    if (key !== KEY) throw new TypeError("AbortSignal cannot be constructed; use an AbortController");
    super();
  }

  get aborted() {
    return this.#aborted;
  }

  get reason() {
    return this.#reason;
  }

  throwIfAborted() {
    if (this.#aborted) throw this.#reason;
  }

  #abort(reason) {
    if (this.#aborted) return;
    this.#mark(reason);
    const marked = [];
    for (const dependent of this.#dependents) {
      if (dependent.#aborted) continue;
      dependent.#mark(this.#reason);
      marked.push(dependent);
    }
    this.#fire();
    for (const dependent of marked) dependent.#fire();
  }

  #mark(reason) {
    this.#aborted = true;
    this.#reason = reason === undefined ? new DOMException("signal is aborted without reason", "AbortError") : reason;
  }

  #fire() {
    const algorithms = [...this.#algorithms];
    this.#algorithms.clear();
    for (const run of algorithms) run(this.#reason);
    this.dispatchEvent(trust(new Event("abort")));
    this.#dependents.clear();
    this.#sources = null;
  }

  static abort(reason) {
    const signal = new AbortSignal(KEY);
    signal.#mark(reason);
    return signal;
  }

  static timeout(milliseconds) {
    const delay = Number(milliseconds);
    if (!(delay >= 0 && delay <= Number.MAX_SAFE_INTEGER)) {
      throw new TypeError(`AbortSignal.timeout: ${String(milliseconds)} is not a number of milliseconds`);
    }
    const signal = new AbortSignal(KEY);
    const fire = () => signal.#abort(new DOMException("signal timed out", "TimeoutError"));
    addTimer(fire, delay, false, []);
    return signal;
  }

  static any(signals) {
    const result = new AbortSignal(KEY);
    const sources = [...signals];
    for (const signal of sources) {
      if (!(#aborted in Object(signal))) throw new TypeError("AbortSignal.any: every element must be an AbortSignal");
    }
    for (const signal of sources) {
      if (signal.#aborted) {
        result.#mark(signal.#reason);
        return result;
      }
    }
    result.#sources = new Set();
    for (const signal of sources) {
      for (const source of signal.#sources ?? [signal]) {
        source.#dependents.add(result);
        result.#sources.add(source);
      }
    }
    return result;
  }
}
defineHandler(AbortSignal.prototype, "abort");
Object.defineProperty(AbortSignal.prototype, Symbol.toStringTag, { value: "AbortSignal", configurable: true });

class AbortController {
  #signal = new AbortSignal(KEY);

  get signal() {
    return this.#signal;
  }

  abort(reason) {
    abortSignal(this.#signal, reason);
  }
}
Object.defineProperty(AbortController.prototype, Symbol.toStringTag, { value: "AbortController", configurable: true });

export { AbortController, AbortSignal };
