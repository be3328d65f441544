// Value path: where in a value something stands, as text for an error: `$.rows[3]["first name"]`.

import { NumberToString, RegExpExec, StringCharCodeAt, StringPadStart, StringSlice, jsonStringify } from "isola:primordials";

const MOST_KEY_CHARS = 40;
const MOST_STEPS = 32; // of a longer path the first and the last half of these are shown
const plainKey = /^[A-Za-z_$][A-Za-z0-9_$]*$/;

// `steps` are indices (numbers) and keys (strings), outermost first.
export function formatPath(steps) {
  let path = "$";
  for (let i = 0; i < steps.length; i++) {
    if (steps.length > MOST_STEPS && i === MOST_STEPS / 2) {
      path += "...";
      i = steps.length - MOST_STEPS / 2;
    }
    path += formatStep(steps[i]);
  }
  return path;
}

function formatStep(step) {
  if (typeof step === "number") return "[" + step + "]";
  if (step.length > MOST_KEY_CHARS) return "[" + StringSlice(quoted(StringSlice(step, 0, MOST_KEY_CHARS)), 0, -1) + '..."]';
  return RegExpExec(plainKey, step) === null ? "[" + quoted(step) + "]" : "." + step;
}

// A JSON string in ASCII.
function quoted(key) {
  const text = jsonStringify(key);
  let out = "";
  for (let i = 0; i < text.length; i++) {
    const code = StringCharCodeAt(text, i);
    out += code < 0x7f ? text[i] : "\\u" + StringPadStart(NumberToString(code, 16), 4, "0");
  }
  return out;
}
