// What time is it, for the guest?
//
// The engine's clock is the host's, but its origin was frozen into the image: the origin is set anew at the fork.

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
