// URL: the class `URL`. (URL standard, section 6.1.)

import { USERINFO, encodeText } from "isola:percent";
import { makeParams, resetParams, showMembers, text } from "isola:url_params";
import {
  HOST,
  HOSTNAME,
  IN_FRAGMENT,
  IN_QUERY,
  PATH_START,
  PORT,
  SCHEME_START,
  advance,
  originOf,
  parse,
} from "isola:url_parser";

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

showMembers(URL);

export { URL };
