"""Modules: JavaScript has no files of its own, and what it can name are modules."""

from __future__ import annotations

from tests.hostile.attack import gives, js, survives

ATTACKS = [
    js(
        "imports from outside",
        """
        async function attack() {
            const found = [];
            for (const path of ["/etc/passwd", "../../etc/passwd", "/data/../../outside/secret.txt", "/data/secret",
                "file:///etc/passwd", "/proc/self/environ", "/data/out/secret.txt", "http://127.0.0.1:1/x.js", "fs",
                "node:fs", "std", "os", "isola:main", "isola:dispatcher", "/data/pipe", "qjs:std", "/data/self"]) {
                try { found.push(Object.keys(await import(path))) } catch (error) { }
            }
            return found;
        }
        """,
        gives([]),
        mounts="ro",
    ),
    js(
        "an import error that tells what it read",
        """
        async function attack() {
            const told = [];
            for (const path of ["/data/out/secret.txt", "/data/secret", "/etc/hostname", "/data/hello.txt"]) {
                try { await import(path) } catch (error) { told.push(String(error) + error.stack) }
            }
            return told.filter((text) => text.includes("only-the-host"));
        }
        """,
        gives([]),
        mounts="ro",
    ),
    js(
        "imports of names that are none",
        """
        async function attack() {
            let refused = 0;
            const names = ["", "\\0", "x".repeat(1e6), "../".repeat(1e5), "\\ud800", "/".repeat(5000), "/data",
                "/data/hello.txt\\0.js", "data:text/javascript,1", "blob:x", "/tmp", "/dev/stdin"];
            for (const name of names) {
                try { await import(name) } catch (error) { refused++ }
            }
            return refused === names.length;
        }
        """,
        gives(True),
        mounts="ro",
    ),
    js(
        "a module that imports itself",
        """
        async function attack() {
            try { await import("/data/self.js") } catch (error) { return error.name }
        }
        """,
        survives,
        mounts="ro",
    ),
    js(
        "the engine's own file modules",
        """
        function attack() {
            return ["std", "os", "bjson", "scriptArgs", "require", "process", "Deno", "Bun", "module", "__filename",
                "loadScript", "__loadScript", "print", "read", "readFile", "load"].filter((name) => name in globalThis);
        }
        """,
        gives([]),
    ),
]
