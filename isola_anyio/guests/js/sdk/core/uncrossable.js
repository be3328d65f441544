// Uncrossable objects: the classes whose instances JSON would lose in silence, and what to do instead.

import { StringSlice, getPrototypeOf, isPrototypeOf, objectKeys, toStringTag } from "isola:primordials";

const MAX_TAG = 40;

const refusals = []; // {prototype, label, remedy}
const refuse = (prototype, label, remedy) => {
  refusals[refusals.length] = { __proto__: null, prototype, label, remedy };
};
refuse(Map.prototype, "Map", "convert it with Object.fromEntries()");
refuse(Set.prototype, "Set", "convert it to an array");
refuse(WeakMap.prototype, "WeakMap", "convert it to an object");
refuse(WeakSet.prototype, "WeakSet", "convert it to an array");
refuse(WeakRef.prototype, "WeakRef", "send what it refers to");
refuse(Promise.prototype, "Promise", "await it first");
refuse(RegExp.prototype, "RegExp", "convert it to a string");
refuse(Error.prototype, "Error", "convert it to a string");
const iteratorPrototype = getPrototypeOf(getPrototypeOf([][Symbol.iterator]()));
refuse(iteratorPrototype, "Iterator", "convert it to an array");
const asyncIteratorPrototype = getPrototypeOf(getPrototypeOf(getPrototypeOf((async function* () {})())));
refuse(asyncIteratorPrototype, "AsyncIterator", "collect it into an array first");

// The refusal of an instance of one of these classes; undefined for any other object.
export function refusalOf(value) {
  for (let i = 0; i < refusals.length; i++) {
    if (isPrototypeOf(refusals[i].prototype, value)) return refusals[i];
  }
  return undefined;
}

// The refusal of an object that has a toStringTag and no member to show: what it holds is inside, where nobody can
// fetch it (Math, JSON, URLSearchParams).
export function refusalOfOpaque(value) {
  if (objectKeys(value).length !== 0) return undefined;
  const tag = value[toStringTag];
  if (typeof tag !== "string") return undefined;
  const remedy = tag === "URLSearchParams" ? "convert it with String()" : "send what you need of it";
  return { __proto__: null, label: StringSlice(tag, 0, MAX_TAG), remedy };
}
