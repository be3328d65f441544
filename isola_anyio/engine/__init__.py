"""Engine: what runs wasm; threads, CPU time, images, instances, and the one seam to wasmtime."""
