// Scripts: how source that the host compiled, or failed to compile, becomes the outcome of the run that loads it.
//
// LOAD begins a run; the host then evaluates the source and calls one of these functions (`sources.py`).

import { defineProperty, expose, objectKeys } from "isola:primordials";
import { namedError } from "isola:errors";
import { follow } from "isola:promises";
import { continuing, failing, run, settle } from "isola:run";

// A script was compiled and started; `promise` settles when it has run.
export function adopt(promise) {
  const self = run;
  follow(promise, () => settle(self, true, undefined), failing(self));
}

// A module was compiled and started; when it has run, its exports become globals.
export function adoptModule(promise, name) {
  const self = run;
  const publish = continuing(self, (_, namespace) => {
    const names = objectKeys(namespace);
    for (let i = 0; i < names.length; i++) {
      if (names[i] !== "default") mirror(namespace, names[i]);
    }
    settle(self, true, undefined);
  });
  follow(promise, () => follow(import(name), publish, failing(self)), failing(self));
}

// An exported `let` may change later, so the global reads the module's binding each time, until it is assigned to.
function mirror(namespace, name) {
  defineProperty(globalThis, name, {
    __proto__: null,
    get: () => namespace[name],
    set: (value) => expose(globalThis, name, value, true),
    enumerable: true,
    configurable: true,
  });
}

// The source did not compile.
export function refuse(thrown) {
  settle(run, false, thrown);
}

// The source could not be read, or failed in another way that the host describes.
export function refuseWith(type, message) {
  settle(run, false, namedError(type, message));
}
