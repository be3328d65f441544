// Performance: the object `performance`.
//
// The engine's clock is the host's, but its origin is part of the image, so the origin is set anew in each fork.

import { expose, now } from "isola:primordials";

let origin = now();
let epoch = Date.now();
const wallClock = Date.now;

export function restartClock() {
  origin = now();
  epoch = wallClock();
}

class Performance {
  now() {
    return now() - origin;
  }

  get timeOrigin() {
    return epoch;
  }

  toJSON() {
    return { timeOrigin: epoch };
  }
}
expose(Performance.prototype, Symbol.toStringTag, "Performance");

export const performance = new Performance();
