// URL parser: text to the parts of a URL. (URL standard, section 4.4.)
//
// `advance` is the standard's state machine, one `case` for each of its states; setters start it in the middle.

import { C0_CONTROL, FRAGMENT, PATH, QUERY, SPECIAL_QUERY, USERINFO, encodeText } from "isola:percent";
import { parseHost } from "isola:url_host";
import { Parts, defaultPorts, isNormalDriveLetter, isSpecial } from "isola:url_parts";

export const SCHEME_START = 1;
const SCHEME = 2;
const NO_SCHEME = 3;
const SPECIAL_RELATIVE_OR_AUTHORITY = 4;
const PATH_OR_AUTHORITY = 5;
const RELATIVE = 6;
const RELATIVE_SLASH = 7;
const SPECIAL_AUTHORITY_SLASHES = 8;
const SPECIAL_AUTHORITY_IGNORE_SLASHES = 9;
const AUTHORITY = 10;
export const HOST = 11;
export const HOSTNAME = 12;
export const PORT = 13;
const FILE = 14;
const FILE_SLASH = 15;
const FILE_HOST = 16;
export const PATH_START = 17;
const IN_PATH = 18;
const OPAQUE_PATH = 19;
export const IN_QUERY = 20;
export const IN_FRAGMENT = 21;

const FAILURE = false;
const FINE = true;

const alpha = /^[a-zA-Z]$/;
const schemeCharacter = /^[a-zA-Z\d+\-.]$/;
const driveLetter = /^[a-zA-Z][:|]$/;
const startsWithDriveLetter = /^[a-zA-Z][:|](?:$|[/\\?#])/;
const singleDot = /^(?:\.|%2e)$/i;
const doubleDot = /^(?:\.|%2e){2}$/i;

// The parts of a URL, or null for an invalid one.
export function parse(input, base) {
  const text = input.replace(/^[\0-\x20]+|[\0-\x20]+$/g, "");
  const url = new Parts();
  return advance(text, base, url, 0) === FAILURE ? null : url;
}

// Run the state machine on `url`; `override` is the state that a setter starts (and ends) in, 0 for none.
export function advance(input, base, url, override) {
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
            if (!startsWithDriveLetter.test(text.slice(at)) && base.path.length > 0 && isNormalDriveLetter(base.path[0])) {
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

export function originOf(url) {
  if (url.scheme === "blob") {
    const inner = url.opaque ? parse(url.path, null) : null;
    return inner !== null && (inner.scheme === "http" || inner.scheme === "https") ? originOf(inner) : "null";
  }
  if (!url.special || url.scheme === "file") return "null";
  return url.scheme + "://" + url.host + (url.port === null ? "" : ":" + url.port);
}
