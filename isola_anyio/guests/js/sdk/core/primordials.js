// Which built-ins may the SDK rely on? Those captured here, before any guest code has run.
//
// The host expects its frames whatever the guest does to its globals, so nothing between a message and its answer
// looks up a method on an object that the guest can reach. `uncurry(f)` gives `(self, ...args)` as a native bound
// function: no JavaScript frame, no lookup at call time. Rules for code that must hold: index loops instead of
// `for of`, no destructuring of arrays, no spread, records without a prototype.

export const { apply, construct, defineProperty, deleteProperty, getOwnPropertyDescriptor, getPrototypeOf, has, ownKeys } =
  Reflect;
const bind = Function.prototype.bind;
export const uncurry = Reflect.apply(bind, bind, [Function.prototype.call]);

export const create = Object.create;
export const freeze = Object.freeze;
export const hasOwn = Object.hasOwn;
export const isArray = Array.isArray;
export const objectKeys = Object.keys;
export const objectToString = uncurry(Object.prototype.toString);
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

export const MapGet = uncurry(Map.prototype.get);
export const MapSet = uncurry(Map.prototype.set);
export const MapHas = uncurry(Map.prototype.has);
export const MapDelete = uncurry(Map.prototype.delete);
export const MapForEach = uncurry(Map.prototype.forEach);
export const MapClear = uncurry(Map.prototype.clear);
const mapSize = Object.getOwnPropertyDescriptor(Map.prototype, "size").get;
export const MapSize = uncurry(mapSize);
export const SetForEach = uncurry(Set.prototype.forEach);
export const SetSize = uncurry(Object.getOwnPropertyDescriptor(Set.prototype, "size").get);
export const WeakSetAdd = uncurry(WeakSet.prototype.add);
export const WeakSetHas = uncurry(WeakSet.prototype.has);
export const WeakRefDeref = uncurry(WeakRef.prototype.deref);

export const PromiseThen = uncurry(Promise.prototype.then);
export const RegExpExec = uncurry(RegExp.prototype.exec);
export const jsonStringify = JSON.stringify;
export const jsonParse = JSON.parse;
export const now = uncurry(performance.now).bind(undefined, performance);
export const indirectEval = globalThis.eval;

const typedArrayPrototype = getPrototypeOf(Uint8Array.prototype);
const typedArrayGetter = (name) => uncurry(getOwnPropertyDescriptor(typedArrayPrototype, name).get);
export const TypedArrayBuffer = typedArrayGetter("buffer");
export const TypedArrayByteLength = typedArrayGetter("byteLength");
export const TypedArrayByteOffset = typedArrayGetter("byteOffset");
export const TypedArrayLength = typedArrayGetter("length");
export const TypedArrayTag = typedArrayGetter(Symbol.toStringTag);
export const TypedArraySet = uncurry(typedArrayPrototype.set);
export const TypedArraySubarray = uncurry(typedArrayPrototype.subarray);
export const TypedArraySlice = uncurry(typedArrayPrototype.slice);

const $Promise = Promise;
const $Map = Map;
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
const $Symbol = Symbol;
export {
  $Promise as Promise,
  $Map as Map,
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
  $Symbol as Symbol,
};
export const isError = Error.isError;
export const isView = ArrayBuffer.isView;
export const fromCharCode = String.fromCharCode;
export const isInteger = Number.isInteger;
export const { floor, max, min, trunc } = Math;
export const asyncIterator = Symbol.asyncIterator;
export const iterator = Symbol.iterator;
export const toStringTag = Symbol.toStringTag;

// A method that the platform's classes show as their own: enumerable, replaceable.
export function expose(target, name, value, enumerable = false) {
  defineProperty(target, name, { __proto__: null, value, writable: true, enumerable, configurable: true });
}
