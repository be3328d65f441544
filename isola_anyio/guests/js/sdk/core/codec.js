// Codec: values to what crosses to the host, and back.
//
// The wire form, the limits and the error texts are those of the host's package `isola_anyio.codec`, whose modules
// give the reasons. Plain JSON stays a string, which the engine converts natively; only a value that JSON cannot
// express becomes bytes (`wire_form.js`).

export { encode, isPayloadLimit } from "isola:encoder";
export { decode } from "isola:decoder";
