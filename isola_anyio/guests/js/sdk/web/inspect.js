// Inspect: a value as text for a log line, in the form that Node.js made known.
//
// Strings are bare at the top and quoted inside, objects are shown to a depth of four, errors with their frames, cycles
// marked. The host waits for none of it, so plain built-ins are used: a guest that breaks them breaks its own logs.

import { userFrames, headline, looksLikeError } from "isola:errors";

const MAX_DEPTH = 4;
const MAX_ITEMS = 100;
const MAX_STRING = 10_000;
const LINE = 76;
const identifier = /^[A-Za-z_$][\w$]*$/;
const objectToString = Object.prototype.toString;

// "Map" of "[object Map]"; "Object" for an object whose toStringTag throws.
function tagOf(value) {
  try {
    return objectToString.call(value).slice(8, -1);
  } catch {
    return "Object";
  }
}

function quote(text) {
  const cut = text.length > MAX_STRING ? text.slice(0, MAX_STRING) : text;
  const mark = !cut.includes("'") ? "'" : !cut.includes('"') ? '"' : !cut.includes("`") ? "`" : "'";
  let out = "";
  for (let i = 0; i < cut.length; i++) {
    const c = cut[i];
    const code = cut.charCodeAt(i);
    if (c === mark || c === "\\") out += "\\" + c;
    else if (c === "\n") out += "\\n";
    else if (c === "\t") out += "\\t";
    else if (c === "\r") out += "\\r";
    else if (c === "\b") out += "\\b";
    else if (c === "\f") out += "\\f";
    else if (code < 32 || code === 127) out += "\\x" + code.toString(16).padStart(2, "0");
    else out += c;
  }
  return mark + out + mark + (cut.length < text.length ? `... ${text.length - cut.length} more characters` : "");
}

function key(name) {
  if (typeof name === "symbol") return `[${name.toString()}]`;
  return identifier.test(name) ? name : quote(name);
}

function className(value) {
  for (let at = value, depth = 0; at !== null && depth < 16; at = Object.getPrototypeOf(at), depth++) {
    const own = Object.getOwnPropertyDescriptor(at, "constructor");
    if (own !== undefined && typeof own.value === "function" && own.value.name !== "") return own.value.name;
  }
  return null;
}

function primitive(value, top) {
  switch (typeof value) {
    case "string":
      return top ? value : quote(value);
    case "number":
      return Object.is(value, -0) ? "-0" : String(value);
    case "bigint":
      return `${value}n`;
    case "symbol":
      return value.toString();
    default:
      return String(value);
  }
}

function functionHead(value) {
  const text = Function.prototype.toString.call(value);
  if (text.startsWith("class")) {
    const parent = Object.getPrototypeOf(value);
    const heritage = typeof parent === "function" && parent.name ? ` extends ${parent.name}` : "";
    return `[class ${value.name || "(anonymous)"}${heritage}]`;
  }
  const tag = tagOf(value);
  const kind = tag === "Function" || !tag.endsWith("Function") ? "Function" : tag;
  return value.name ? `[${kind}: ${value.name}]` : `[${kind} (anonymous)]`;
}

class Printer {
  constructor(maxDepth, showHidden) {
    this.maxDepth = maxDepth;
    this.showHidden = showHidden;
    this.path = [];
    this.circular = undefined;
  }

  print(value, depth, top = false) {
    if (value === null || (typeof value !== "object" && typeof value !== "function")) return primitive(value, top);
    if (this.path.includes(value)) {
      this.circular ??= new Map();
      if (!this.circular.has(value)) this.circular.set(value, this.circular.size + 1);
      return `[Circular *${this.circular.get(value)}]`;
    }
    this.path.push(value);
    let text;
    try {
      text = this.object(value, depth);
    } finally {
      this.path.pop();
    }
    const mark = this.circular?.get(value);
    return mark === undefined ? text : `<ref *${mark}> ${text}`;
  }

    object(value, depth) {
    const name = className(value);
    if (looksLikeError(value)) return this.error(value, depth);
    if (typeof value === "function") return this.withProperties(functionHead(value), value, depth, [], "{", "}", true);
    const tag = tagOf(value);
    const shown = name === null ? "[Object: null prototype]" : name;
    if (Array.isArray(value)) {
      const prefix = name === "Array" ? "" : `${shown}(${value.length})`;
      if (depth > this.maxDepth) return `[${shown}]`;
      return this.withProperties(prefix, value, depth, this.elements(value, depth), "[", "]");
    }
    if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
      if (depth > this.maxDepth) return `[${shown}]`;
      const entries = [];
      for (let i = 0; i < value.length && i < MAX_ITEMS; i++) entries.push(primitive(value[i], false));
      if (value.length > MAX_ITEMS) entries.push(`... ${value.length - MAX_ITEMS} more items`);
      return this.join(`${shown}(${value.length})`, entries, "[", "]");
    }
    if (value instanceof ArrayBuffer) return `${shown} { byteLength: ${value.byteLength} }`;
    if (value instanceof Map) {
      if (depth > this.maxDepth) return `[${shown}]`;
      const entries = [];
      for (const [k, v] of value) {
        if (entries.length >= MAX_ITEMS) break;
        entries.push(`${this.print(k, depth + 1)} => ${this.print(v, depth + 1)}`);
      }
      if (value.size > MAX_ITEMS) entries.push(`... ${value.size - MAX_ITEMS} more items`);
      return this.withProperties(`${shown}(${value.size})`, value, depth, entries, "{", "}");
    }
    if (value instanceof Set) {
      if (depth > this.maxDepth) return `[${shown}]`;
      const entries = [];
      for (const v of value) {
        if (entries.length >= MAX_ITEMS) break;
        entries.push(this.print(v, depth + 1));
      }
      if (value.size > MAX_ITEMS) entries.push(`... ${value.size - MAX_ITEMS} more items`);
      return this.withProperties(`${shown}(${value.size})`, value, depth, entries, "{", "}");
    }
    if (value instanceof Date) {
      const text = Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
      return this.withProperties(text, value, depth, [], "{", "}", true);
    }
    if (value instanceof RegExp) return this.withProperties(String(value), value, depth, [], "{", "}", true);
    if (value instanceof Promise) return this.withProperties(shown, value, depth, [], "{", "}");
    if (value instanceof Number || value instanceof String || value instanceof Boolean) {
      return `[${shown}: ${primitive(value.valueOf(), false)}]`;
    }
    if (value instanceof Symbol || value instanceof BigInt) return `[${shown}: ${primitive(value.valueOf(), false)}]`;
    if (tag === "Arguments") {
      return this.withProperties("[Arguments]", value, depth, this.elements(value, depth), "[", "]");
    }
    if (name === "URL" || name === "URLSearchParams") return `${name} { ${quote(String(value))} }`;
    let prefix = name === "Object" ? "" : shown;
    if (tag !== "Object" && tag !== name) prefix += `${prefix || "Object"} [${tag}]`.slice(prefix.length);
    return this.withProperties(prefix, value, depth, [], "{", "}");
  }

  elements(value, depth) {
    const entries = [];
    let holes = 0;
    const flush = () => {
      if (holes > 0) entries.push(holes === 1 ? "<1 empty item>" : `<${holes} empty items>`);
      holes = 0;
    };
    for (let i = 0; i < value.length && entries.length < MAX_ITEMS; i++) {
      if (!Object.hasOwn(value, i)) {
        holes++;
        continue;
      }
      flush();
      entries.push(this.print(value[i], depth + 1));
    }
    flush();
    if (value.length > MAX_ITEMS && entries.length >= MAX_ITEMS) entries.push(`... ${value.length - MAX_ITEMS} more items`);
    return entries;
  }

  withProperties(prefix, value, depth, entries, open, close, bare = false) {
    const indexed = open === "[";
    const names = Reflect.ownKeys(value);
    let count = 0;
    for (const name of names) {
      if (indexed && typeof name === "string" && (/^\d+$/.test(name) || name === "length")) continue;
      const own = Object.getOwnPropertyDescriptor(value, name);
      if (own === undefined || (!own.enumerable && !this.showHidden)) continue;
      if (depth > this.maxDepth) return `[${prefix || "Object"}]`;
      if (++count > MAX_ITEMS) continue;
      const shown = own.enumerable ? key(name) : `[${typeof name === "symbol" ? name.toString() : name}]`;
      if (own.get !== undefined || own.set !== undefined) {
        const kind = own.get === undefined ? "[Setter]" : own.set === undefined ? "[Getter]" : "[Getter/Setter]";
        entries.push(`${shown}: ${kind}`);
      } else {
        entries.push(`${shown}: ${this.print(own.value, depth + 1)}`);
      }
    }
    if (count > MAX_ITEMS) entries.push(`... ${count - MAX_ITEMS} more properties`);
    if (bare && entries.length === 0) return prefix;
    return this.join(prefix, entries, open, close);
  }

  join(prefix, entries, open, close) {
    const head = prefix === "" ? open : `${prefix} ${open}`;
    if (entries.length === 0) return head + close;
    let total = head.length + entries.length;
    let flat = entries.length <= 6 || open === "[";
    for (const entry of entries) {
      total += entry.length + 1;
      if (entry.includes("\n")) flat = false;
    }
    if (flat && total <= LINE) return `${head} ${entries.join(", ")} ${close}`;
    const indented = entries.map((entry) => "  " + entry.replaceAll("\n", "\n  "));
    const cells = entries.at(-1).startsWith("... ") ? entries.slice(0, -1) : entries;
    if (open === "[" && cells.length > 6 && cells.every((entry) => entry.length <= 16 && !entry.includes("\n"))) {
      const width = cells.reduce((most, entry) => Math.max(most, entry.length), 0) + 2;
      const columns = Math.max(1, Math.min(16, Math.floor(LINE / width)));
      const rows = [];
      for (let i = 0; i < cells.length; i += columns) rows.push("  " + cells.slice(i, i + columns).join(", "));
      if (cells !== entries) rows.push("  " + entries.at(-1));
      return `${head}\n${rows.join(",\n")}\n${close}`;
    }
    return `${head}\n${indented.join(",\n")}\n${close}`;
  }

  error(value, depth) {
    const frames = userFrames(value.stack);
    let text = headline(value);
    if (frames !== "") text += "\n" + frames;
    else text = `[${text}]`;
    const entries = [];
    for (const name of Object.keys(value)) {
      if (name === "stack" || name === "message" || name === "name" || name === "cause" || name === "errors") continue;
      entries.push(`${key(name)}: ${depth > this.maxDepth ? "..." : this.print(value[name], depth + 1)}`);
    }
    if (Object.hasOwn(value, "cause")) entries.push(`[cause]: ${this.print(value.cause, depth + 1)}`);
    if (Object.hasOwn(value, "errors")) entries.push(`[errors]: ${this.print(value.errors, depth + 1)}`);
    return entries.length === 0 ? text : `${text} {\n${entries.map((e) => "  " + e.replaceAll("\n", "\n  ")).join(",\n")}\n}`;
  }
}

export function inspect(value, maxDepth = MAX_DEPTH, showHidden = false) {
  try {
    return new Printer(maxDepth, showHidden).print(value, 0);
  } catch (error) {
    if (error instanceof RangeError || error instanceof InternalError) throw error;
    return `[${typeof value} that cannot be shown]`;
  }
}

function asNumber(value, parse) {
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "symbol") return "NaN";
  return primitive(parse(value), false);
}

// The text of console.log(...values): a format string like printf's if the first is one, then the rest, with spaces.
export function format(values) {
  let out = "";
  let at = 0;
  const head = values[0];
  if (typeof head === "string" && values.length > 1 && head.includes("%")) {
    at = 1;
    let start = 0;
    for (let i = 0; i < head.length - 1; i++) {
      if (head[i] !== "%") continue;
      const mark = head[i + 1];
      let text;
      if (mark === "%") text = "%";
      else if (!"sdifjoOc".includes(mark) || at >= values.length) continue;
      else {
        const value = values[at++];
        if (mark === "s") text = stringMark(value);
        else if (mark === "d") text = asNumber(value, (v) => (typeof v === "object" && v !== null ? NaN : Number(v)));
        else if (mark === "i") text = asNumber(value, (v) => (typeof v === "object" && v !== null ? NaN : parseInt(v, 10)));
        else if (mark === "f") text = asNumber(value, parseFloat);
        else if (mark === "j") text = jsonMark(value);
        else if (mark === "o") text = inspect(value, MAX_DEPTH, true);
        else if (mark === "O") text = inspect(value);
        else text = "";
      }
      out += head.slice(start, i) + text;
      start = i + 2;
      i++;
    }
    out += head.slice(start);
  }
  for (; at < values.length; at++) {
    if (at > 0) out += " ";
    const value = values[at];
    out += typeof value === "string" ? value : inspect(value);
  }
  return out;
}

function stringMark(value) {
  if (typeof value === "string") return value;
  if (value === null || typeof value !== "object") return typeof value === "function" ? inspect(value) : primitive(value, true);
  const own = value.toString;
  if (looksLikeError(value) || (typeof own === "function" && own !== Object.prototype.toString && !Array.isArray(value) && own !== Map.prototype.toString)) {
    return looksLikeError(value) ? headline(value) : String(value);
  }
  return inspect(value, 0);
}

function jsonMark(value) {
  try {
    return JSON.stringify(value) ?? "undefined";
  } catch {
    return "[Circular]";
  }
}
