// How does the SDK listen to promises of which it does not know what the guest did to them?

import { Promise, PromiseThen, defineProperty, deleteProperty } from "isola:primordials";

export function resolved(value) {
  return new Promise((resolve) => resolve(value));
}

export function rejection(reason) {
  return new Promise((_, reject) => reject(reason));
}

export function isObject(value) {
  return (typeof value === "object" && value !== null) || typeof value === "function";
}

export function isThenable(value) {
  return isObject(value) && typeof value.then === "function";
}

// Listen to a promise, or to what only behaves like one. `then` looks up the promise's class, which a guest may have
// broken: for the moment of the call it has none, which means the engine's own.
export function follow(promise, onValue, onError) {
  try {
    PromiseThen(promise, onValue, onError);
    return;
  } catch {
    // No promise, or no class.
  }
  try {
    followBare(promise, onValue, onError);
  } catch {
    followBare(resolved(promise), onValue, onError);
  }
}

function followBare(promise, onValue, onError) {
  defineProperty(promise, "constructor", { __proto__: null, value: undefined, configurable: true });
  try {
    PromiseThen(promise, onValue, onError);
  } finally {
    deleteProperty(promise, "constructor");
  }
}
