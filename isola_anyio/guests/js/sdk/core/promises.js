// Promises: how the SDK makes them, and listens to those that the guest may have tampered with.

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

// Listen to a promise or another thenable. `then` looks up `promise.constructor`, which a guest may have broken: it is
// undefined during a second attempt, and the engine then uses its own class.
export function follow(promise, onValue, onError) {
  try {
    PromiseThen(promise, onValue, onError);
    return;
  } catch {
    // Not a promise, or its `constructor` is broken.
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
