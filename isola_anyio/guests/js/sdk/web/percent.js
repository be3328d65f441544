// Percent-encoding: the sets of characters that each part of a URL encodes, and both directions. (URL standard, 1.3.)

const hex = [];
for (let i = 0; i < 256; i++) hex.push("%" + i.toString(16).toUpperCase().padStart(2, "0"));

// A set is a pattern that matches a character that must be encoded.
export const C0_CONTROL = /[^\x20-\x7e]/;
export const FRAGMENT = /[^\x21\x23-\x3b\x3d\x3f-\x5f\x61-\x7e]/;
export const QUERY = /[^\x21\x24-\x3b\x3d\x3f-\x7e]/;
export const SPECIAL_QUERY = /[^\x21\x24-\x26\x28-\x3b\x3d\x3f-\x7e]/;
export const PATH = /[^\x21\x24-\x3b\x3d\x40-\x5d\x5f\x61-\x7a\x7c\x7e]/;
export const USERINFO = /[^\x21\x24-\x2e\x30-\x39\x41-\x5a\x5f\x61-\x7a\x7e]/;

export function encodeText(text, set) {
  if (!set.test(text)) return text;
  let out = "";
  for (const c of text) out += set.test(c) ? (c > "\x7f" ? encodeURIComponent(c) : hex[c.charCodeAt(0)]) : c;
  return out;
}

// Percent-decode, and decode the bytes as UTF-8; invalid bytes become U+FFFD.
export function percentDecode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return decodeBytes(text);
  }
}

const decoder = /%[\da-fA-F]{2}/;

function decodeBytes(text) {
  const bytes = [];
  for (let i = 0; i < text.length; ) {
    const mark = text.slice(i, i + 3);
    if (decoder.test(mark)) {
      bytes.push(parseInt(mark.slice(1), 16));
      i += 3;
      continue;
    }
    const c = String.fromCodePoint(text.codePointAt(i));
    if (c > "\x7f") for (const one of encodeURIComponent(c).slice(1).split("%")) bytes.push(parseInt(one, 16));
    else bytes.push(c.charCodeAt(0));
    i += c.length;
  }
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
}

// application/x-www-form-urlencoded, decoding and encoding.
export function formDecode(text) {
  return percentDecode(text.replaceAll("+", " "));
}

export function formEncode(text) {
  return encodeURIComponent(text)
    .replaceAll("%20", "+")
    .replace(/[!'()~]/g, (c) => hex[c.charCodeAt(0)]);
}
