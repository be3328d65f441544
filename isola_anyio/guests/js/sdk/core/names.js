// Names: the value of a name that `run` is given.
//
// Top-level `let`, `const` and `class` are not properties of the global object, so the name is evaluated: by a function
// compiled once for each name, in the global scope, or in the scope of a module that was loaded.

import {
  ArrayPush,
  Map,
  MapClear,
  MapGet,
  MapSet,
  ReferenceError,
  RegExpExec,
  SymbolFor,
  expose,
  hasOwn,
  indirectEval,
  jsonStringify,
} from "isola:primordials";

const identifier = /^[\p{ID_Start}$_][\p{ID_Continue}$\u200c\u200d]*$/u;
const getters = new Map(); // name -> function returning its value
const scopes = []; // of the modules loaded, oldest first: function from a name to its value or undefined

// A module that has run registers its scope; see `_SCOPE` in sources.py.
expose(globalThis, SymbolFor("isola.scope"), (scope) => {
  if (typeof scope === "function") ArrayPush(scopes, scope);
});

export function lookup(name) {
  if (RegExpExec(identifier, name) === null) throw new ReferenceError(`${jsonStringify(name)} is not a name`);
  for (let i = scopes.length - 1; i >= 0; i--) {
    try {
      const found = scopes[i](name);
      if (found !== undefined) return found;
    } catch {
      // The guest registered a function of its own.
    }
  }
  if (hasOwn(globalThis, name)) return globalThis[name];
  const getter = MapGet(getters, name) ?? compile(name);
  try {
    return getter();
  } catch (error) {
    throw new ReferenceError(error.message); // a new error, without the frames of the lookup
  }
}

function compile(name) {
  try {
    const getter = indirectEval("()=>" + name);
    MapSet(getters, name, getter);
    return getter;
  } catch {
    throw new ReferenceError(`${name} is not a name`);
  }
}

export function forgetNames() {
  MapClear(getters);
}
