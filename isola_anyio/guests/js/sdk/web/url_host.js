// URL host: text to a domain, an IPv4 or IPv6 address, or an opaque host. (URL standard, section 3.)
//
// A host is a string in its serialised form; "" is the empty host, and null stands for failure. Domains that are not
// ASCII are sent to the sandbox's host (`idna.py`), because the tables of Unicode's IDNA processing would be larger than
// the rest of the SDK.

import { domainToAscii } from "isola:door";
import { C0_CONTROL, encodeText, percentDecode } from "isola:percent";

const forbiddenHost = /[\0\t\n\r #/:<>?@[\\\]^|]/;
const forbiddenDomain = /[\0-\x20#%/:<>?@[\\\]^|\x7f]/;
const plainDomain = /^[\x00-\x7f]*$/;

export function parseHost(input, opaque) {
  if (input.startsWith("[")) {
    if (!input.endsWith("]")) return null;
    const pieces = parseIPv6(input.slice(1, -1));
    return pieces === null ? null : `[${serializeIPv6(pieces)}]`;
  }
  if (opaque) return forbiddenHost.test(input) ? null : encodeText(input, C0_CONTROL);
  const domain = input.includes("%") ? percentDecode(input) : input;
  const ascii = toAscii(domain);
  if (ascii === null || ascii === "" || forbiddenDomain.test(ascii)) return null;
  return endsInNumber(ascii) ? parseIPv4(ascii) : ascii;
}

function toAscii(domain) {
  return plainDomain.test(domain) ? domain.toLowerCase() : domainToAscii(domain);
}

function endsInNumber(domain) {
  const parts = domain.split(".");
  if (parts[parts.length - 1] === "") {
    if (parts.length === 1) return false;
    parts.pop();
  }
  const last = parts[parts.length - 1];
  return /^\d+$/.test(last) || parseNumber(last) !== null;
}

// Decimal, octal after 0, hexadecimal after 0x; null for any other text.
function parseNumber(text) {
  if (text === "") return null;
  if (/^0x/i.test(text)) return text.length === 2 ? 0 : /^0x[\da-f]+$/i.test(text) ? parseInt(text.slice(2), 16) : null;
  if (text.length > 1 && text.startsWith("0")) return /^[0-7]+$/.test(text) ? parseInt(text, 8) : null;
  return /^\d+$/.test(text) ? parseInt(text, 10) : null;
}

function parseIPv4(domain) {
  const parts = domain.split(".");
  if (parts[parts.length - 1] === "" && parts.length > 1) parts.pop();
  if (parts.length > 4) return null;
  const numbers = [];
  for (const part of parts) {
    const number = parseNumber(part);
    if (number === null) return null;
    numbers.push(number);
  }
  const last = numbers.length - 1;
  for (let i = 0; i < last; i++) if (numbers[i] > 255) return null;
  if (numbers[last] >= 256 ** (5 - numbers.length)) return null;
  let address = numbers[last];
  for (let i = 0; i < last; i++) address += numbers[i] * 256 ** (3 - i);
  const bytes = [];
  for (let i = 0; i < 4; i++) {
    bytes.unshift(address % 256);
    address = Math.floor(address / 256);
  }
  return bytes.join(".");
}

const isHex = (c) => c !== undefined && /^[\da-fA-F]$/.test(c);
const isDigit = (c) => c !== undefined && c >= "0" && c <= "9";

// Eight pieces of 16 bits, or null.
function parseIPv6(input) {
  const address = [0, 0, 0, 0, 0, 0, 0, 0];
  let piece = 0;
  let compress = -1;
  let at = 0;
  if (input[at] === ":") {
    if (input[at + 1] !== ":") return null;
    at += 2;
    compress = ++piece;
  }
  while (at < input.length) {
    if (piece === 8) return null;
    if (input[at] === ":") {
      if (compress >= 0) return null;
      at++;
      compress = ++piece;
      continue;
    }
    let value = 0;
    let length = 0;
    while (length < 4 && isHex(input[at])) {
      value = value * 16 + parseInt(input[at], 16);
      at++;
      length++;
    }
    if (input[at] === ".") {
      if (length === 0 || piece > 6) return null;
      return parseDotted(input, at - length, address, piece, compress);
    }
    if (input[at] === ":") {
      at++;
      if (at >= input.length) return null;
    } else if (at < input.length) {
      return null;
    }
    address[piece++] = value;
  }
  return expand(address, piece, compress);
}

// The IPv4 tail of an IPv6 address.
function parseDotted(input, start, address, first, compress) {
  let at = start;
  let piece = first;
  let seen = 0;
  while (at < input.length) {
    let value = -1;
    if (seen > 0) {
      if (input[at] !== "." || seen >= 4) return null;
      at++;
    }
    if (!isDigit(input[at])) return null;
    while (isDigit(input[at])) {
      const digit = Number(input[at]);
      if (value === -1) value = digit;
      else if (value === 0) return null;
      else value = value * 10 + digit;
      if (value > 255) return null;
      at++;
    }
    address[piece] = address[piece] * 256 + value;
    seen++;
    if (seen === 2 || seen === 4) piece++;
  }
  return seen === 4 ? expand(address, piece, compress) : null;
}

// Insert the zeros that "::" stands for, at index `compress`.
function expand(address, piece, compress) {
  if (compress < 0) return piece === 8 ? address : null;
  const tail = address.slice(compress, piece);
  const zeros = 8 - piece;
  return [...address.slice(0, compress), ...new Array(zeros).fill(0), ...tail];
}

function serializeIPv6(address) {
  let best = -1;
  let longest = 1;
  for (let i = 0; i < 8; i++) {
    let end = i;
    while (end < 8 && address[end] === 0) end++;
    if (end - i > longest) {
      best = i;
      longest = end - i;
    }
    if (end > i) i = end;
  }
  let out = "";
  for (let i = 0; i < 8; i++) {
    if (i === best) {
      out += i === 0 ? "::" : ":";
      i += longest - 1;
      continue;
    }
    out += address[i].toString(16);
    if (i < 7) out += ":";
  }
  return out;
}
