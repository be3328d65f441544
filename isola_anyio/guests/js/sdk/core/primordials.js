// Primordials: the built-ins that the SDK relies on, captured before any guest code has run.
//
// The host expects its frames whatever the guest does to its globals, so nothing between a message and its answer
// looks up a method on an object that the guest can reach. `uncurry(f)` gives `(self, ...args)` as a native bound
// function: no JavaScript frame, no lookup at call time. Rules for code on that path: index loops instead of `for of`,
// no destructuring of arrays, no spread, records without a prototype.

export const { apply, construct, defineProperty, deleteProperty, getOwnPropertyDescriptor, getPrototypeOf, has, ownKeys } =
  Reflect;
const bind = Function.prototype.bind;
export const uncurry = apply(bind, bind, [Function.prototype.call]);
const getter = (prototype, name) => uncurry(getOwnPropertyDescriptor(prototype, name).get);

export const create = Object.create;
export const freeze = Object.freeze;
export const hasOwn = Object.hasOwn;
export const getOwnPropertySymbols = Object.getOwnPropertySymbols;
export const isArray = Array.isArray;
export const objectKeys = Object.keys;
export const objectPrototype = Object.prototype;
export const objectToString = uncurry(objectPrototype.toString);
export const isEnumerable = uncurry(objectPrototype.propertyIsEnumerable);
export const isPrototypeOf = uncurry(objectPrototype.isPrototypeOf);
export const setPrototypeOf = Object.setPrototypeOf;

export const ArrayJoin = uncurry(Array.prototype.join);
export const ArrayPop = uncurry(Array.prototype.pop);
export const ArrayPush = uncurry(Array.prototype.push);
export const ArrayShift = uncurry(Array.prototype.shift);
export const ArraySlice = uncurry(Array.prototype.slice);
export const ArraySplice = uncurry(Array.prototype.splice);

export const StringCharCodeAt = uncurry(String.prototype.charCodeAt);
export const StringEndsWith = uncurry(String.prototype.endsWith);
export const StringIncludes = uncurry(String.prototype.includes);
export const StringIndexOf = uncurry(String.prototype.indexOf);
export const StringPadStart = uncurry(String.prototype.padStart);
export const StringRepeat = uncurry(String.prototype.repeat);
export const StringSlice = uncurry(String.prototype.slice);
export const StringSplit = uncurry(String.prototype.split);
export const StringStartsWith = uncurry(String.prototype.startsWith);
export const StringToWellFormed = uncurry(String.prototype.toWellFormed);
export const NumberToString = uncurry(Number.prototype.toString);
export const SymbolFor = Symbol.for;
export const SymbolToString = uncurry(Symbol.prototype.toString);
export const BigIntToString = uncurry(BigInt.prototype.toString);
export const BooleanValueOf = uncurry(Boolean.prototype.valueOf);

export const MapGet = uncurry(Map.prototype.get);
export const MapSet = uncurry(Map.prototype.set);
export const MapHas = uncurry(Map.prototype.has);
export const MapDelete = uncurry(Map.prototype.delete);
export const MapForEach = uncurry(Map.prototype.forEach);
export const MapClear = uncurry(Map.prototype.clear);
export const MapSize = getter(Map.prototype, "size");
export const SetAdd = uncurry(Set.prototype.add);
export const SetHas = uncurry(Set.prototype.has);
export const SetForEach = uncurry(Set.prototype.forEach);
export const SetSize = getter(Set.prototype, "size");
export const WeakSetAdd = uncurry(WeakSet.prototype.add);
export const WeakSetHas = uncurry(WeakSet.prototype.has);
export const WeakRefDeref = uncurry(WeakRef.prototype.deref);

export const PromiseThen = uncurry(Promise.prototype.then);
export const RegExpExec = uncurry(RegExp.prototype.exec);
export const RegExpReplace = uncurry(RegExp.prototype[Symbol.replace]);
export const jsonStringify = JSON.stringify;
export const jsonParse = JSON.parse;
export const now = uncurry(performance.now).bind(undefined, performance);
export const indirectEval = globalThis.eval;

const typedArrayPrototype = getPrototypeOf(Uint8Array.prototype);
const typedArrayGetter = (name) => getter(typedArrayPrototype, name);
export const TypedArrayBuffer = typedArrayGetter("buffer");
export const TypedArrayByteLength = typedArrayGetter("byteLength");
export const TypedArrayByteOffset = typedArrayGetter("byteOffset");
export const TypedArrayLength = typedArrayGetter("length");
export const TypedArrayTag = typedArrayGetter(Symbol.toStringTag);
export const TypedArraySet = uncurry(typedArrayPrototype.set);
export const TypedArraySubarray = uncurry(typedArrayPrototype.subarray);
export const TypedArraySlice = uncurry(typedArrayPrototype.slice);
export const DataViewBuffer = getter(DataView.prototype, "buffer");
export const DataViewByteOffset = getter(DataView.prototype, "byteOffset");
export const DataViewByteLength = getter(DataView.prototype, "byteLength");
export const ArrayBufferByteLength = getter(ArrayBuffer.prototype, "byteLength");
export const SharedArrayBufferByteLength =
  typeof SharedArrayBuffer === "function" ? getter(SharedArrayBuffer.prototype, "byteLength") : ArrayBufferByteLength;

const $Promise = Promise;
const $Map = Map;
const $Set = Set;
const $WeakRef = WeakRef;
const $WeakSet = WeakSet;
const $Error = Error;
const $InternalError = InternalError;
const $TypeError = TypeError;
const $RangeError = RangeError;
const $ReferenceError = ReferenceError;
const $Uint8Array = Uint8Array;
const $ArrayBuffer = ArrayBuffer;
const $DataView = DataView;
const $DOMException = DOMException;
const $String = String;
const $Number = Number;
const $BigInt = BigInt;
const $Symbol = Symbol;
export {
  $Promise as Promise,
  $Map as Map,
  $Set as Set,
  $WeakRef as WeakRef,
  $WeakSet as WeakSet,
  $Error as Error,
  $InternalError as InternalError,
  $TypeError as TypeError,
  $RangeError as RangeError,
  $ReferenceError as ReferenceError,
  $Uint8Array as Uint8Array,
  $ArrayBuffer as ArrayBuffer,
  $DataView as DataView,
  $DOMException as DOMException,
  $String as String,
  $Number as Number,
  $BigInt as BigInt,
  $Symbol as Symbol,
};
const $decodeURIComponent = decodeURIComponent;
const $escape = escape;
export { $decodeURIComponent as decodeURIComponent, $escape as escape };
export const isError = Error.isError;
export const isView = ArrayBuffer.isView;
export const fromCharCode = String.fromCharCode;
export const isInteger = Number.isInteger;
export const { floor, max, min, trunc } = Math;
export const asyncIterator = Symbol.asyncIterator;
export const iterator = Symbol.iterator;
export const toStringTag = Symbol.toStringTag;

// Define a property as the web platform does: writable and configurable.
export function expose(target, name, value, enumerable = false) {
  defineProperty(target, name, { __proto__: null, value, writable: true, enumerable, configurable: true });
}
