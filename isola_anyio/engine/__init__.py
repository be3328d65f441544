"""Run wasm: threads, images, instances, and the one seam to wasmtime."""
