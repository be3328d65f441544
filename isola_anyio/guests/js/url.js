// What are the parts of a URL, and how do they change? (URL standard, sections 4 to 6.)
//
// `parse` is the standard's state machine. A record holds the parts; a path is a list of segments, or a string when it
// is opaque ("mailto:a@b").

import { C0_CONTROL, FRAGMENT, PATH, QUERY, SPECIAL_QUERY, USERINFO, encodeText, formDecode, formEncode } from "isola:percent";
import { parseHost } from "isola:url_host";

const defaultPorts = { __proto__: null, ftp: 21, file: null, http: 80, https: 443, ws: 80, wss: 443 };
const isSpecial = (scheme) => scheme in defaultPorts;

const SCHEME_START = 1;
const SCHEME = 2;
const NO_SCHEME = 3;
const SPECIAL_RELATIVE_OR_AUTHORITY = 4;
const PATH_OR_AUTHORITY = 5;
const RELATIVE = 6;
const RELATIVE_SLASH = 7;
const SPECIAL_AUTHORITY_SLASHES = 8;
const SPECIAL_AUTHORITY_IGNORE_SLASHES = 9;
const AUTHORITY = 10;
const HOST = 11;
const HOSTNAME = 12;
const PORT = 13;
const FILE = 14;
const FILE_SLASH = 15;
const FILE_HOST = 16;
const PATH_START = 17;
const IN_PATH = 18;
const OPAQUE_PATH = 19;
const IN_QUERY = 20;
const IN_FRAGMENT = 21;

const FAILURE = false;
const FINE = true;

const alpha = /^[a-zA-Z]$/;
const schemeCharacter = /^[a-zA-Z\d+\-.]$/;
const driveLetter = /^[a-zA-Z][:|]$/;
const normalDriveLetter = /^[a-zA-Z]:$/;
const startsWithDriveLetter = /^[a-zA-Z][:|](?:$|[/\\?#])/;
const singleDot = /^(?:\.|%2e)$/i;
const doubleDot = /^(?:\.|%2e){2}$/i;

class Parts {
  scheme = "";
  username = "";
  password = "";
  host = null;
  port = null;
  path = [];
  query = null;
  fragment = null;

  get special() {
    return isSpecial(this.scheme);
  }

  get opaque() {
    return typeof this.path === "string";
  }

  get hasCredentials() {
    return this.username !== "" || this.password !== "";
  }

  get cannotHaveCredentials() {
    return this.host === null || this.host === "" || this.scheme === "file";
  }

  shorten() {
    const path = this.path;
    if (this.scheme === "file" && path.length === 1 && normalDriveLetter.test(path[0])) return;
    path.pop();
  }

  takeAuthority(other) {
    this.username = other.username;
    this.password = other.password;
    this.host = other.host;
    this.port = other.port;
  }

  get pathText() {
    return typeof this.path === "string" ? this.path : this.path.length === 0 ? "" : "/" + this.path.join("/");
  }

  serialize(withoutFragment = false) {
    let out = this.scheme + ":";
    if (this.host !== null) {
      out += "//";
      if (this.hasCredentials) out += this.username + (this.password === "" ? "" : ":" + this.password) + "@";
      out += this.host;
      if (this.port !== null) out += ":" + this.port;
    } else if (!this.opaque && this.path.length > 1 && this.path[0] === "") {
      out += "/.";
    }
    out += this.pathText;
    if (this.query !== null) out += "?" + this.query;
    if (!withoutFragment && this.fragment !== null) out += "#" + this.fragment;
    return out;
  }
}

// Parse into new parts: the parts, or null.
function parse(input, base) {
  const text = input.replace(/^[\0-\x20]+|[\0-\x20]+$/g, "");
  const url = new Parts();
  return advance(text, base, url, 0) === FAILURE ? null : url;
}

// The state machine; `override` is the state a setter starts (and ends) in, 0 for none.
function advance(input, base, url, override) {
  const text = input.replace(/[\t\n\r]/g, "");
  let state = override || SCHEME_START;
  let buffer = "";
  let sawAt = false;
  let inBrackets = false;
  let inPassword = false;
  for (let at = 0; ; at++) {
    let c = text[at];
    if (c >= "\ud800" && c <= "\udbff") c += text[at + 1]; // well-formed: a pair
    switch (state) {
      case SCHEME_START:
        if (c !== undefined && alpha.test(c)) {
          buffer += c.toLowerCase();
          state = SCHEME;
        } else if (!override) {
          state = NO_SCHEME;
          at--;
        } else return FAILURE;
        break;

      case SCHEME:
        if (c !== undefined && schemeCharacter.test(c)) {
          buffer += c.toLowerCase();
        } else if (c === ":") {
          if (override) {
            if (url.special !== isSpecial(buffer)) return FINE;
            if ((url.hasCredentials || url.port !== null) && buffer === "file") return FINE;
            if (url.scheme === "file" && url.host === "") return FINE;
            url.scheme = buffer;
            if (url.port === defaultPorts[url.scheme]) url.port = null;
            return FINE;
          }
          url.scheme = buffer;
          buffer = "";
          if (url.scheme === "file") state = FILE;
          else if (url.special && base !== null && base.scheme === url.scheme) state = SPECIAL_RELATIVE_OR_AUTHORITY;
          else if (url.special) state = SPECIAL_AUTHORITY_SLASHES;
          else if (text[at + 1] === "/") {
            state = PATH_OR_AUTHORITY;
            at++;
          } else {
            url.path = "";
            state = OPAQUE_PATH;
          }
        } else if (!override) {
          buffer = "";
          state = NO_SCHEME;
          at = -1;
        } else return FAILURE;
        break;

      case NO_SCHEME:
        if (base === null || (base.opaque && c !== "#")) return FAILURE;
        if (base.opaque) {
          url.scheme = base.scheme;
          url.path = base.path;
          url.query = base.query;
          url.fragment = "";
          state = IN_FRAGMENT;
        } else {
          state = base.scheme === "file" ? FILE : RELATIVE;
          at--;
        }
        break;

      case SPECIAL_RELATIVE_OR_AUTHORITY:
        if (c === "/" && text[at + 1] === "/") {
          state = SPECIAL_AUTHORITY_IGNORE_SLASHES;
          at++;
        } else {
          state = RELATIVE;
          at--;
        }
        break;

      case PATH_OR_AUTHORITY:
        if (c === "/") state = AUTHORITY;
        else {
          state = IN_PATH;
          at--;
        }
        break;

      case RELATIVE:
        url.scheme = base.scheme;
        if (c === "/" || (url.special && c === "\\")) {
          state = RELATIVE_SLASH;
          break;
        }
        url.takeAuthority(base);
        url.path = [...base.path];
        url.query = base.query;
        if (c === "?") {
          url.query = "";
          state = IN_QUERY;
        } else if (c === "#") {
          url.fragment = "";
          state = IN_FRAGMENT;
        } else if (c !== undefined) {
          url.query = null;
          url.shorten();
          state = IN_PATH;
          at--;
        }
        break;

      case RELATIVE_SLASH:
        if (url.special && (c === "/" || c === "\\")) state = SPECIAL_AUTHORITY_IGNORE_SLASHES;
        else if (c === "/") state = AUTHORITY;
        else {
          url.takeAuthority(base);
          state = IN_PATH;
          at--;
        }
        break;

      case SPECIAL_AUTHORITY_SLASHES:
        state = SPECIAL_AUTHORITY_IGNORE_SLASHES;
        if (c === "/" && text[at + 1] === "/") at++;
        else at--;
        break;

      case SPECIAL_AUTHORITY_IGNORE_SLASHES:
        if (c !== "/" && c !== "\\") {
          state = AUTHORITY;
          at--;
        }
        break;

      case AUTHORITY:
        if (c === "@") {
          let credentials = sawAt ? "%40" + buffer : buffer;
          sawAt = true;
          if (!inPassword) {
            const colon = credentials.indexOf(":");
            if (colon >= 0) {
              url.username += encodeText(credentials.slice(0, colon), USERINFO);
              inPassword = true;
              credentials = credentials.slice(colon + 1);
            } else {
              url.username += encodeText(credentials, USERINFO);
              credentials = "";
            }
          }
          url.password += encodeText(credentials, USERINFO);
          buffer = "";
        } else if (c === undefined || c === "/" || c === "?" || c === "#" || (url.special && c === "\\")) {
          if (sawAt && buffer === "") return FAILURE;
          at -= buffer.length + 1;
          buffer = "";
          state = HOST;
        } else buffer += c;
        break;

      case HOST:
      case HOSTNAME:
        if (override && url.scheme === "file") {
          at--;
          state = FILE_HOST;
        } else if (c === ":" && !inBrackets) {
          if (buffer === "" || override === HOSTNAME) return FAILURE;
          const host = parseHost(buffer, !url.special);
          if (host === null) return FAILURE;
          url.host = host;
          buffer = "";
          state = PORT;
        } else if (c === undefined || c === "/" || c === "?" || c === "#" || (url.special && c === "\\")) {
          at--;
          if (url.special && buffer === "") return FAILURE;
          if (override && buffer === "" && (url.hasCredentials || url.port !== null)) return FAILURE;
          const host = parseHost(buffer, !url.special);
          if (host === null) return FAILURE;
          url.host = host;
          buffer = "";
          state = PATH_START;
          if (override) return FINE;
        } else {
          if (c === "[") inBrackets = true;
          if (c === "]") inBrackets = false;
          buffer += c;
        }
        break;

      case PORT:
        if (c >= "0" && c <= "9") {
          buffer += c;
        } else if (c === undefined || c === "/" || c === "?" || c === "#" || (url.special && c === "\\") || override) {
          if (buffer !== "") {
            const port = Number(buffer);
            if (port > 65535) return FAILURE;
            url.port = port === defaultPorts[url.scheme] ? null : port;
            buffer = "";
            if (override) return FINE;
          }
          if (override) return FAILURE;
          state = PATH_START;
          at--;
        } else return FAILURE;
        break;

      case FILE:
        url.scheme = "file";
        url.host = "";
        if (c === "/" || c === "\\") {
          state = FILE_SLASH;
        } else if (base !== null && base.scheme === "file") {
          url.host = base.host;
          url.path = [...base.path];
          url.query = base.query;
          if (c === "?") {
            url.query = "";
            state = IN_QUERY;
          } else if (c === "#") {
            url.fragment = "";
            state = IN_FRAGMENT;
          } else if (c !== undefined) {
            url.query = null;
            if (startsWithDriveLetter.test(text.slice(at))) url.path = [];
            else url.shorten();
            state = IN_PATH;
            at--;
          }
        } else {
          state = IN_PATH;
          at--;
        }
        break;

      case FILE_SLASH:
        if (c === "/" || c === "\\") {
          state = FILE_HOST;
        } else {
          if (base !== null && base.scheme === "file") {
            url.host = base.host;
            if (!startsWithDriveLetter.test(text.slice(at)) && base.path.length > 0 && normalDriveLetter.test(base.path[0])) {
              url.path.push(base.path[0]);
            }
          }
          state = IN_PATH;
          at--;
        }
        break;

      case FILE_HOST:
        if (c === undefined || c === "/" || c === "\\" || c === "?" || c === "#") {
          at--;
          if (!override && driveLetter.test(buffer)) {
            state = IN_PATH; // the buffer becomes the first segment
          } else if (buffer === "") {
            url.host = "";
            if (override) return FINE;
            state = PATH_START;
          } else {
            const host = parseHost(buffer, !url.special);
            if (host === null) return FAILURE;
            url.host = host === "localhost" ? "" : host;
            if (override) return FINE;
            buffer = "";
            state = PATH_START;
          }
        } else buffer += c;
        break;

      case PATH_START:
        if (url.special) {
          state = IN_PATH;
          if (c !== "/" && c !== "\\") at--;
        } else if (!override && c === "?") {
          url.query = "";
          state = IN_QUERY;
        } else if (!override && c === "#") {
          url.fragment = "";
          state = IN_FRAGMENT;
        } else if (c !== undefined) {
          state = IN_PATH;
          if (c !== "/") at--;
        } else if (override && url.host === null) {
          url.path.push("");
        }
        break;

      case IN_PATH: {
        const slash = c === "/" || (url.special && c === "\\");
        if (c === undefined || slash || (!override && (c === "?" || c === "#"))) {
          if (doubleDot.test(buffer)) {
            url.shorten();
            if (!slash) url.path.push("");
          } else if (singleDot.test(buffer)) {
            if (!slash) url.path.push("");
          } else {
            if (url.scheme === "file" && url.path.length === 0 && driveLetter.test(buffer)) buffer = buffer[0] + ":";
            url.path.push(buffer);
          }
          buffer = "";
          if (c === "?") {
            url.query = "";
            state = IN_QUERY;
          } else if (c === "#") {
            url.fragment = "";
            state = IN_FRAGMENT;
          }
        } else {
          buffer += encodeText(c, PATH);
        }
        break;
      }

      case OPAQUE_PATH:
        if (c === "?") {
          url.query = "";
          state = IN_QUERY;
        } else if (c === "#") {
          url.fragment = "";
          state = IN_FRAGMENT;
        } else if (c === " ") {
          const next = text[at + 1];
          url.path += next === "?" || next === "#" ? "%20" : " ";
        } else if (c !== undefined) {
          url.path += encodeText(c, C0_CONTROL);
        }
        break;

      case IN_QUERY:
        if (c === undefined || (!override && c === "#")) {
          url.query += encodeText(buffer, url.special ? SPECIAL_QUERY : QUERY);
          buffer = "";
          if (c === "#") {
            url.fragment = "";
            state = IN_FRAGMENT;
          }
        } else buffer += c;
        break;

      case IN_FRAGMENT:
        if (c !== undefined) {
          url.fragment += encodeText(text.slice(at), FRAGMENT);
          return FINE;
        }
        break;
    }
    if (c === undefined && at >= text.length) return FINE;
    if (c !== undefined && c.length === 2 && text[at] === c[0]) at++;
  }
}

function originOf(url) {
  if (url.scheme === "blob") {
    const inner = url.opaque ? parse(url.path, null) : null;
    return inner !== null && (inner.scheme === "http" || inner.scheme === "https") ? originOf(inner) : "null";
  }
  if (!url.special || url.scheme === "file") return "null";
  return url.scheme + "://" + url.host + (url.port === null ? "" : ":" + url.port);
}

const text = (value) => String(value).toWellFormed();

class URL {
  #parts;
  #params = null;

  constructor(url, base) {
    if (arguments.length === 0) throw new TypeError("URL: 1 argument required");
    this.#parts = URL.#read(url, base) ?? URL.#refuse(url, base);
  }

  static #read(url, base) {
    let parsedBase = null;
    if (base !== undefined) {
      parsedBase = parse(text(base), null);
      if (parsedBase === null) return null;
    }
    return parse(text(url), parsedBase);
  }

  static #refuse(url, base) {
    const known = base === undefined ? "" : ` with base ${JSON.stringify(text(base))}`;
    throw new TypeError(`Invalid URL: ${JSON.stringify(text(url))}${known}`);
  }

  static canParse(url, base) {
    if (arguments.length === 0) throw new TypeError("URL.canParse: 1 argument required");
    return URL.#read(url, base) !== null;
  }

  static parse(url, base) {
    if (arguments.length === 0) throw new TypeError("URL.parse: 1 argument required");
    return URL.#read(url, base) === null ? null : new URL(url, base);
  }

  get href() {
    return this.#parts.serialize();
  }
  set href(value) {
    this.#parts = parse(text(value), null) ?? URL.#refuse(value);
    this.#refreshParams();
  }

  get origin() {
    return originOf(this.#parts);
  }

  get protocol() {
    return this.#parts.scheme + ":";
  }
  set protocol(value) {
    advance(text(value) + ":", null, this.#parts, SCHEME_START);
  }

  get username() {
    return this.#parts.username;
  }
  set username(value) {
    const given = text(value);
    if (!this.#parts.cannotHaveCredentials) this.#parts.username = encodeText(given, USERINFO);
  }

  get password() {
    return this.#parts.password;
  }
  set password(value) {
    const given = text(value);
    if (!this.#parts.cannotHaveCredentials) this.#parts.password = encodeText(given, USERINFO);
  }

  get host() {
    const { host, port } = this.#parts;
    return host === null ? "" : port === null ? host : `${host}:${port}`;
  }
  set host(value) {
    const given = text(value);
    if (!this.#parts.opaque) advance(given, null, this.#parts, HOST);
  }

  get hostname() {
    return this.#parts.host ?? "";
  }
  set hostname(value) {
    const given = text(value);
    if (!this.#parts.opaque) advance(given, null, this.#parts, HOSTNAME);
  }

  get port() {
    return this.#parts.port === null ? "" : String(this.#parts.port);
  }
  set port(value) {
    const given = text(value);
    if (this.#parts.cannotHaveCredentials) return;
    if (given === "") this.#parts.port = null;
    else advance(given, null, this.#parts, PORT);
  }

  get pathname() {
    return this.#parts.pathText;
  }
  set pathname(value) {
    const given = text(value);
    if (this.#parts.opaque) return;
    this.#parts.path = [];
    advance(given, null, this.#parts, PATH_START);
  }

  get search() {
    const { query } = this.#parts;
    return query === null || query === "" ? "" : "?" + query;
  }
  set search(value) {
    const given = text(value);
    const parts = this.#parts;
    if (given === "") {
      parts.query = null;
    } else {
      parts.query = "";
      advance(given.startsWith("?") ? given.slice(1) : given, null, parts, IN_QUERY);
    }
    this.#refreshParams();
  }

  get searchParams() {
    this.#params ??= makeParams(this.#parts.query ?? "", (query) => {
      this.#parts.query = query === "" ? null : query;
    });
    return this.#params;
  }

  get hash() {
    const { fragment } = this.#parts;
    return fragment === null || fragment === "" ? "" : "#" + fragment;
  }
  set hash(value) {
    const given = text(value);
    const parts = this.#parts;
    if (given === "") {
      parts.fragment = null;
    } else {
      parts.fragment = "";
      advance(given.startsWith("#") ? given.slice(1) : given, null, parts, IN_FRAGMENT);
    }
  }

  toString() {
    return this.href;
  }

  toJSON() {
    return this.href;
  }

  #refreshParams() {
    if (this.#params !== null) resetParams(this.#params, this.#parts.query ?? "");
  }
}

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

let makeParams;
let resetParams;

class URLSearchParams {
  #list = [];
  #changed = null; // tells the URL this belongs to

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

// Live: what is appended while it runs is seen.
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

// As the platform has them: the members are enumerable, the constructor is not.
for (const type of [URL, URLSearchParams]) {
  for (const name of Object.getOwnPropertyNames(type.prototype)) {
    if (name !== "constructor") Object.defineProperty(type.prototype, name, { enumerable: true });
  }
  Object.defineProperty(type.prototype, Symbol.toStringTag, { value: type.name, configurable: true });
}

export { URL, URLSearchParams };
