// Random: the generator behind `Math.random`.
//
// The engine's own generator has its state in the image, which would be the same in every sandbox; this one is seeded
// in each fork. Numbers that must be unguessable come from the host each time (crypto.js).
//
// It is sfc32, by Chris Doty-Humphrey: four 32-bit words, period about 2**127, passes PractRand. Two outputs make 53
// bits.

import { StringSlice } from "isola:primordials";

const parseHex = parseInt;
let a = 0x9e3779b9;
let b = 0x243f6a88;
let c = 0xb7e15162;
let counter = 1;

function word() {
  const sum = (((a + b) | 0) + counter) | 0;
  counter = (counter + 1) | 0;
  a = b ^ (b >>> 9);
  b = (c + (c << 3)) | 0;
  c = (c << 21) | (c >>> 11);
  c = (c + sum) | 0;
  return sum >>> 0;
}

export function random() {
  const high = word() >>> 5; // 27 bits
  const low = word() >>> 6; // 26 bits
  return (high * 67108864 + low) / 9007199254740992;
}

// Seed with the first 128 bits of `seed`, which is hexadecimal text.
export function seedRandom(seed) {
  const word32 = (at) => parseHex(StringSlice(seed, at, at + 8), 16) | 0;
  a = word32(0);
  b = word32(8);
  c = word32(16);
  counter = word32(24) | 1;
  for (let i = 0; i < 15; i++) word();
}
