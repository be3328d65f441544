// Events: `Event` and `EventTarget`. (DOM standard, section 2, without a tree to bubble through.)

import { reportLost } from "isola:logs";

const state = new WeakMap();

class Event {
  #type;
  #bubbles;
  #cancelable;
  #composed;
  #timeStamp = performance.now();
  target = null;
  currentTarget = null;

  constructor(type, options = {}) {
    if (arguments.length === 0) throw new TypeError("Event: 1 argument required");
    this.#type = String(type);
    this.#bubbles = Boolean(options?.bubbles);
    this.#cancelable = Boolean(options?.cancelable);
    this.#composed = Boolean(options?.composed);
    state.set(this, { stopped: false, prevented: false, passive: false, trusted: false, busy: false });
    for (const name of ["target", "currentTarget"]) Object.defineProperty(this, name, { enumerable: false });
  }

  get type() {
    return this.#type;
  }
  get bubbles() {
    return this.#bubbles;
  }
  get cancelable() {
    return this.#cancelable;
  }
  get composed() {
    return this.#composed;
  }
  get timeStamp() {
    return this.#timeStamp;
  }
  get defaultPrevented() {
    return state.get(this).prevented;
  }
  get isTrusted() {
    return state.get(this).trusted;
  }
  get eventPhase() {
    return this.currentTarget === null ? 0 : 2;
  }
  get srcElement() {
    return this.target;
  }

  preventDefault() {
    const mine = state.get(this);
    if (this.#cancelable && !mine.passive) mine.prevented = true;
  }
  stopPropagation() {}
  stopImmediatePropagation() {
    state.get(this).stopped = true;
  }
  composedPath() {
    return this.currentTarget === null ? [] : [this.currentTarget];
  }

  static NONE = 0;
  static CAPTURING_PHASE = 1;
  static AT_TARGET = 2;
  static BUBBLING_PHASE = 3;
}
Object.defineProperty(Event.prototype, Symbol.toStringTag, { value: "Event", configurable: true });

class EventTarget {
  #listeners = new Map(); // type -> [{callback, once, capture, passive, removed}]

  addEventListener(type, callback, options) {
    if (callback === null || callback === undefined) return;
    if (typeof callback !== "function" && typeof callback !== "object") {
      throw new TypeError("addEventListener: the listener must be a function or an object");
    }
    const settings = typeof options === "object" && options !== null ? options : { capture: Boolean(options) };
    const signal = settings.signal;
    if (signal?.aborted) return;
    const name = String(type);
    const capture = Boolean(settings.capture);
    let list = this.#listeners.get(name);
    if (list === undefined) this.#listeners.set(name, (list = []));
    if (list.some((one) => one.callback === callback && one.capture === capture)) return;
    const listener = {
      callback,
      capture,
      once: Boolean(settings.once),
      passive: Boolean(settings.passive),
      removed: false,
    };
    list.push(listener);
    signal?.addEventListener("abort", () => this.#remove(name, listener), { once: true });
  }

  removeEventListener(type, callback, options) {
    const capture = Boolean(typeof options === "object" && options !== null ? options.capture : options);
    const name = String(type);
    const found = this.#listeners.get(name)?.find((one) => one.callback === callback && one.capture === capture);
    if (found !== undefined) this.#remove(name, found);
  }

  #remove(name, listener) {
    listener.removed = true;
    const list = this.#listeners.get(name);
    const at = list === undefined ? -1 : list.indexOf(listener);
    if (at >= 0) this.#listeners.set(name, list.toSpliced(at, 1));
  }

  dispatchEvent(event) {
    const mine = state.get(event);
    if (mine === undefined) throw new TypeError("dispatchEvent: the argument must be an Event");
    if (mine.busy) throw new DOMException("The event is already being dispatched", "InvalidStateError");
    return this.#fire(event, mine);
  }

  #fire(event, mine) {
    mine.busy = true;
    event.target = this;
    event.currentTarget = this;
    for (const listener of (this.#listeners.get(event.type) ?? []).slice()) {
      if (listener.removed) continue;
      if (listener.once) this.#remove(event.type, listener);
      mine.passive = listener.passive;
      try {
        if (typeof listener.callback === "function") Reflect.apply(listener.callback, this, [event]);
        else listener.callback.handleEvent(event);
      } catch (error) {
        reportLost("Uncaught ", error);
      }
      if (mine.stopped) break;
    }
    mine.busy = false;
    mine.passive = false;
    mine.stopped = false;
    event.currentTarget = null;
    return !mine.prevented;
  }
}
Object.defineProperty(EventTarget.prototype, Symbol.toStringTag, { value: "EventTarget", configurable: true });

// Define an `on...` attribute: its listener keeps its place in the list when it is replaced.
export function defineHandler(prototype, type) {
  const handlers = new WeakMap();
  Object.defineProperty(prototype, "on" + type, {
    enumerable: true,
    configurable: true,
    get() {
      return handlers.get(this)?.current ?? null;
    },
    set(value) {
      const callback = typeof value === "function" ? value : null;
      const known = handlers.get(this);
      if (known !== undefined) {
        known.current = callback;
        return;
      }
      const holder = { current: callback };
      handlers.set(this, holder);
      this.addEventListener(type, (event) => holder.current === null || Reflect.apply(holder.current, this, [event]));
    },
  });
}

export function trust(event) {
  state.get(event).trusted = true;
  return event;
}

export { Event, EventTarget };
