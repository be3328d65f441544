// URL parameters: the class `URLSearchParams`, a query as pairs. (URL standard, section 6.2.)

import { formDecode, formEncode } from "isola:percent";

// A value as a USVString: text without lone surrogates.
export const text = (value) => String(value).toWellFormed();

function parseForm(query) {
  const list = [];
  for (const piece of query.split("&")) {
    if (piece === "") continue;
    const equals = piece.indexOf("=");
    if (equals < 0) list.push([formDecode(piece), ""]);
    else list.push([formDecode(piece.slice(0, equals)), formDecode(piece.slice(equals + 1))]);
  }
  return list;
}

// For the URL that owns the object. Assigned in the class below, because only code in it may use private fields.
export let makeParams;
export let resetParams;

class URLSearchParams {
  #list = [];
  #changed = null; // called with the new query, to update the URL that owns this object

  static {
    makeParams = (query, changed) => {
      const params = new URLSearchParams();
      params.#list = parseForm(query);
      params.#changed = changed;
      return params;
    };
    resetParams = (params, query) => {
      params.#list = parseForm(query);
    };
    Object.defineProperty(this.prototype, "size", {
      get() {
        return this.#list.length;
      },
      enumerable: true,
      configurable: true,
    });
  }

  constructor(init = "") {
    if ((typeof init === "object" && init !== null) || typeof init === "function") {
      const method = init[Symbol.iterator];
      if (method !== undefined && method !== null) {
        if (typeof method !== "function") throw new TypeError("URLSearchParams: the value's iterator is not a function");
        for (const pair of { [Symbol.iterator]: () => Reflect.apply(method, init, []) }) {
          if ((typeof pair !== "object" && typeof pair !== "function") || pair === null) {
            throw new TypeError("URLSearchParams: each element must be a pair");
          }
          const both = [...pair];
          if (both.length !== 2) throw new TypeError("URLSearchParams: each element must be a pair");
          this.#list.push([text(both[0]), text(both[1])]);
        }
        return;
      }
      const seen = new Map();
      for (const name of Reflect.ownKeys(init)) {
        const own = Reflect.getOwnPropertyDescriptor(init, name);
        if (own === undefined || !own.enumerable) continue;
        if (typeof name === "symbol") throw new TypeError("URLSearchParams: a symbol cannot be a name");
        seen.set(text(name), text(init[name]));
      }
      this.#list = [...seen];
      return;
    }
    const query = text(init);
    this.#list = parseForm(query.startsWith("?") ? query.slice(1) : query);
  }

  append(name, value) {
    need(arguments, 2, "append");
    this.#list.push([text(name), text(value)]);
    this.#update();
  }

  delete(name, value) {
    need(arguments, 1, "delete");
    const wanted = text(name);
    const only = value === undefined ? undefined : text(value);
    this.#list = this.#list.filter((pair) => pair[0] !== wanted || (only !== undefined && pair[1] !== only));
    this.#update();
  }

  get(name) {
    need(arguments, 1, "get");
    const wanted = text(name);
    const found = this.#list.find((pair) => pair[0] === wanted);
    return found === undefined ? null : found[1];
  }

  getAll(name) {
    need(arguments, 1, "getAll");
    const wanted = text(name);
    return this.#list.filter((pair) => pair[0] === wanted).map((pair) => pair[1]);
  }

  has(name, value) {
    need(arguments, 1, "has");
    const wanted = text(name);
    const only = value === undefined ? undefined : text(value);
    return this.#list.some((pair) => pair[0] === wanted && (only === undefined || pair[1] === only));
  }

  set(name, value) {
    need(arguments, 2, "set");
    const wanted = text(name);
    const given = text(value);
    const first = this.#list.findIndex((pair) => pair[0] === wanted);
    if (first < 0) {
      this.#list.push([wanted, given]);
    } else {
      this.#list[first][1] = given;
      this.#list = this.#list.filter((pair, i) => i <= first || pair[0] !== wanted);
    }
    this.#update();
  }

  sort() {
    this.#list.sort((one, other) => (one[0] < other[0] ? -1 : one[0] > other[0] ? 1 : 0));
    this.#update();
  }

  toString() {
    return this.#list.map((pair) => formEncode(pair[0]) + "=" + formEncode(pair[1])).join("&");
  }

  forEach(callback, self) {
    if (typeof callback !== "function") throw new TypeError("URLSearchParams.forEach: the argument must be a function");
    for (let i = 0; i < this.#list.length; i++) {
      Reflect.apply(callback, self, [this.#list[i][1], this.#list[i][0], this]);
    }
  }

  entries() {
    return new ParamsIterator(() => this.#list, (pair) => [pair[0], pair[1]]);
  }

  keys() {
    return new ParamsIterator(() => this.#list, (pair) => pair[0]);
  }

  values() {
    return new ParamsIterator(() => this.#list, (pair) => pair[1]);
  }

  #update() {
    if (this.#changed !== null) this.#changed(this.toString());
  }
}

// A live iterator: it sees pairs that are appended while it runs.
class ParamsIterator {
  #list;
  #show;
  #at = 0;

  constructor(list, show) {
    this.#list = list;
    this.#show = show;
  }

  next() {
    const list = this.#list();
    if (this.#at >= list.length) return { value: undefined, done: true };
    return { value: this.#show(list[this.#at++]), done: false };
  }
}
Object.setPrototypeOf(ParamsIterator.prototype, Iterator.prototype);
delete ParamsIterator.prototype.constructor;
Object.defineProperty(ParamsIterator.prototype, "next", { enumerable: true });
Object.defineProperty(ParamsIterator.prototype, Symbol.toStringTag, { value: "URLSearchParams Iterator", configurable: true });

function need(given, count, method) {
  if (given.length < count) throw new TypeError(`URLSearchParams.${method}: ${count} argument${count > 1 ? "s" : ""} required`);
}

Object.defineProperty(URLSearchParams.prototype, Symbol.iterator, {
  value: URLSearchParams.prototype.entries,
  writable: true,
  configurable: true,
});

// Make the members of a class enumerable, but not its constructor, as Web IDL does.
export function showMembers(type) {
  for (const name of Object.getOwnPropertyNames(type.prototype)) {
    if (name !== "constructor") Object.defineProperty(type.prototype, name, { enumerable: true });
  }
  Object.defineProperty(type.prototype, Symbol.toStringTag, { value: type.name, configurable: true });
}
showMembers(URLSearchParams);

export { URLSearchParams };
