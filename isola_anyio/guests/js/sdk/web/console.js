// Console: the object `console`, whose lines go to the host's log with a level.

import { format, inspect } from "isola:inspect";
import { userFrames } from "isola:errors";
import { log } from "isola:logs";
import { now } from "isola:primordials";

const DEBUG = 0;
const INFO = 1;
const WARNING = 2;
const ERROR = 3;

let indent = "";
const counts = new Map();
const clocks = new Map();

function write(level, values) {
  const text = format(values);
  log(level, indent === "" ? text : indent + text.replaceAll("\n", "\n" + indent));
}

// The time since `since` as text, in milliseconds or seconds.
function elapsed(since) {
  const passed = now() - since;
  return passed >= 1000 ? `${(passed / 1000).toFixed(3)}s` : `${passed.toFixed(3)}ms`;
}

function table(data) {
  const rows = data instanceof Map ? [...data] : Object.entries(data);
  const columns = ["(index)"];
  let plain = false;
  for (const [, row] of rows) {
    if (row !== null && typeof row === "object") {
      for (const name of Object.keys(row)) if (!columns.includes(name)) columns.push(name);
    } else plain = true;
  }
  const cells = rows.map(([index, row]) => {
    const composite = row !== null && typeof row === "object";
    const line = columns.slice(1).map((name) => (composite && Object.hasOwn(row, name) ? inspect(row[name], 0) : ""));
    if (plain) line.push(composite ? "" : inspect(row, 0));
    return [String(index), ...line];
  });
  if (plain) columns.push("Values");
  const widths = columns.map((name, i) => cells.reduce((most, row) => Math.max(most, row[i].length), name.length) + 2);
  const rule = (left, middle, right) => left + widths.map((width) => "─".repeat(width)).join(middle) + right;
  const line = (row) => "│" + row.map((cell, i) => " " + cell.padEnd(widths[i] - 1)).join("│") + "│";
  return [rule("┌", "┬", "┐"), line(columns), rule("├", "┼", "┤"), ...cells.map(line), rule("└", "┴", "┘")].join("\n");
}

export const console = {
  debug: (...values) => write(DEBUG, values),
  log: (...values) => write(INFO, values),
  info: (...values) => write(INFO, values),
  warn: (...values) => write(WARNING, values),
  error: (...values) => write(ERROR, values),
  dir: (value) => write(INFO, [inspect(value)]),
  table: (data) => write(INFO, [data !== null && typeof data === "object" ? table(data) : data]),
  trace: (...values) => {
    const frames = userFrames(new Error().stack);
    const head = values.length > 0 ? `Trace: ${format(values)}` : "Trace";
    write(DEBUG, [frames === "" ? head : `${head}\n${frames}`]);
  },
  assert: (condition, ...values) => {
    if (condition) return;
    if (typeof values[0] === "string") values[0] = "Assertion failed: " + values[0];
    else values.unshift("Assertion failed");
    write(ERROR, values);
  },
  group: (...values) => {
    if (values.length > 0) write(INFO, values);
    indent += "  ";
  },
  groupEnd: () => {
    indent = indent.slice(2);
  },
  count: (label = "default") => {
    const count = (counts.get(String(label)) ?? 0) + 1;
    counts.set(String(label), count);
    write(INFO, [`${label}: ${count}`]);
  },
  countReset: (label = "default") => {
    counts.delete(String(label));
  },
  time: (label = "default") => {
    clocks.set(String(label), now());
  },
  timeLog: (label = "default", ...values) => {
    const since = clocks.get(String(label));
    if (since !== undefined) write(INFO, [`${label}: ${elapsed(since)}`, ...values]);
  },
  timeEnd: (label = "default") => {
    const since = clocks.get(String(label));
    if (since !== undefined) write(INFO, [`${label}: ${elapsed(since)}`]);
    clocks.delete(String(label));
  },
};
console.dirxml = console.log;
console.groupCollapsed = console.group;
