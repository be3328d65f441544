"""Cancellation: what waits is rejected and unwinds, what spins is stopped, what a run leaves behind ends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import LogEvent, SandboxBrokenError, SandboxTemplate, StreamArg
from tests.timing import SLACK

if TYPE_CHECKING:
    from tests.guests.js.support import Ready

WAITS = {
    "hostcall": "await hostcall('never')",
    "sleep": "await new Promise(resolve => setTimeout(resolve, 1e6))",
    "all": "await Promise.all([hostcall('never'), new Promise(r => setTimeout(r, 1e6))])",
    "race": "await Promise.race([hostcall('never'), hostcall('never')])",
    "timer that calls back": "await new Promise(resolve => setTimeout(() => resolve(5), 1e6))",
    "timer with a named function": "await new Promise(resolve => { const done = () => resolve(1); setTimeout(done, 1e6) })",
    "timer with a bound function": "await new Promise(resolve => setTimeout(resolve.bind(null, 1), 1e6))",
    "interval": "await new Promise(resolve => setInterval(() => globalThis.ready && resolve(), 1e5))",
    "withResolvers": "const { promise, resolve } = Promise.withResolvers(); setTimeout(() => resolve(), 1e6); await promise",
    "nothing": "await new Promise(() => {})",
    "queue": "const waiting = []; await new Promise(resolve => waiting.push(resolve))",
    "signal": "const { signal } = new AbortController();"
    " await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))",
    "timeout signal": "await new Promise((_, reject) => AbortSignal.timeout(1e6).addEventListener('abort', reject))",
    "subclass": "class Mine extends Promise {} await new Mine(() => {})",
    "then": "await new Promise(() => {}).then(value => value)",
    "promise of a script": "await kept",
}


async def never(_payload: object) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("kind", WAITS)
async def test_what_a_run_awaits_is_rejected_with_an_abort_error(
    template: SandboxTemplate, kind: str, ready: Ready
) -> None:
    async with template.create(hostcalls={"never": never, "ready": ready}) as sandbox:
        await sandbox.load_script(
            "const kept = new Promise(resolve => { globalThis.settle = resolve });"
            f"const log = []; async function f() {{ try {{ hostcall('ready'); {WAITS[kind]} }} catch (e) {{ log.push(e.name); throw e }}"
            " finally { log.push('finally') } } const told = () => log"
        )
        assert await ready.cancel(sandbox.run, "f") < 0.5 * SLACK
        assert not sandbox.broken
        assert await sandbox.run("told") == ["AbortError", "finally"]


async def test_nobodys_promises_are_rejected_in_silence(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(
            "async function f() { new Promise(() => {}); hostcall('ready');"
            " try { await new Promise(() => {}) } finally { console.log('end') } }"
        )
        async with sandbox.run_stream("f") as events:
            await ready.cancel(events.receive)  # no event comes
        async with sandbox.load_stream("new Promise(() => {}); setTimeout(() => console.log('never'), 5)") as events:
            assert [event async for event in events if isinstance(event, LogEvent)] == []


async def test_a_promise_whose_timer_died_with_its_script_is_rejected(template: SandboxTemplate) -> None:
    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script(
            """
            const slept = new Promise(resolve => setTimeout(() => resolve(7), 20));
            const asked = new Promise(resolve => hostcall('never').then(resolve));
            const told = () => Promise.allSettled([slept, asked]).then(all => all.map(({ reason }) => String(reason)));
            """
        )
        with anyio.fail_after(5):
            assert await sandbox.run("told") == ["AbortError: the run has ended"] * 2


async def test_a_scripts_promise_that_a_later_call_resolves_lives_on(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(
            """
            let settle;
            const ready = new Promise(resolve => { settle = resolve });
            const { promise: failed, reject } = Promise.withResolvers();
            const refuse = () => reject(new RangeError('no'));
            const wait = () => { hostcall('ready'); return new Promise(() => {}) };
            """
        )
        await sandbox.load_script("const told = async () => [await ready, await failed.catch(e => e.name)]")
        await ready.cancel(sandbox.run, "wait")  # ... of something else
        await sandbox.run("settle", 8)
        await sandbox.run("refuse")
        assert await sandbox.run("told") == [8, "RangeError"]


async def test_what_a_call_left_waiting_in_a_queue_ends_with_it(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            """
            const log = [], waiting = [];
            async function left() { try { await new Promise(resolve => waiting.push(resolve)) } catch (e) { log.push(e.name) } }
            function f() { left(); left(); return 1 }
            const told = () => { waiting.forEach(resolve => resolve()); return log };
            """
        )
        assert await sandbox.run("f") == 1
        assert await sandbox.run("told") == ["AbortError", "AbortError"]


async def test_who_waits_again_whenever_it_is_rejected_is_left_behind(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(
            """
            let rounds = 0;
            const stubborn = async () => { for (;;) try { await new Promise(() => {}) } catch { rounds++ } };
            const wait = () => { hostcall('ready'); return stubborn() };
            const leave = () => { stubborn(); return 1 };
            const told = () => rounds;
            """
        )
        with anyio.fail_after(5):
            assert await sandbox.run("leave") == 1
            await ready.cancel(sandbox.run, "wait")
            await sandbox.load_script("stubborn()")
            assert await sandbox.run("told") == 4  # left: once; cancelled: then and at the end; by a script: once


@pytest.mark.slow
async def test_a_handler_of_the_rejection_that_spins_is_stopped(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(
            "async function f() { hostcall('ready'); try { await new Promise(() => {}) } catch { for (;;); } }"
        )
        assert await ready.cancel(sandbox.run, "f") < 3
        assert sandbox.broken


@pytest.mark.slow
async def test_promises_that_nobody_can_settle_take_no_memory(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(max_memory=8 << 20, hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(
            """
            const log = [];
            async function f(n) {
              try {
                for (let i = 0; i < n; i++) {
                  let timer;
                  await Promise.race([null, new Promise(resolve => { timer = setTimeout(() => resolve(i), 1e6) })]);
                  clearTimeout(timer);
                }
                return n;
              } finally { log.push('end') }
            }
            async function g() {
              const first = new Promise(() => {});
              await f(5000);
              hostcall('ready');
              try { await first } finally { log.push('first') }
            }
            const told = () => log;
            """
        )
        assert await sandbox.run("f", 20_000) == 20_000  # 8 MiB do not hold so many
        await ready.cancel(sandbox.run, "g")
        assert await sandbox.run("told") == ["end", "end", "first"]


@pytest.mark.slow
async def test_waits_that_only_the_waiting_could_end_are_bounded(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            """
            async function one() { const waiting = []; await new Promise(resolve => waiting.push(resolve)) }
            async function f(n) { for (let i = 0; i < n; i++) { one(); await null } return n }
            """
        )
        with anyio.fail_after(60):
            assert await sandbox.run("f", 60_000) == 60_000  # 64 MiB hold all of them only if they are let go of


async def test_many_pending_promises_are_rejected_with_one_error(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(
            """
            const reasons = [], waiting = [];
            async function one() { try { await new Promise(resolve => waiting.push(resolve)) } catch (e) { reasons.push(e) } }
            function f() { const all = Promise.all(Array.from({ length: 5000 }, one)); hostcall('ready'); return all }
            const told = () => [reasons.length, new Set(reasons).size, reasons[0].name];
            """
        )
        await ready.cancel(sandbox.run, "f")
        assert await sandbox.run("told") == [5000, 1, "AbortError"]


async def test_finally_may_still_call_the_host(template: SandboxTemplate, ready: Ready) -> None:
    released: list[object] = []

    async def release(payload: object) -> None:
        await anyio.sleep(0.05)  # longer than the guest takes: it waits for the answer
        released.append(payload)

    async with template.create(hostcalls={"never": never, "ready": ready, "release": release}) as sandbox:
        await sandbox.load_script(
            "async function f() { hostcall('ready');"
            " try { await hostcall('never') } finally { await hostcall('release', 'lock') } }"
        )
        await ready.cancel(sandbox.run, "f")
        assert released == ["lock"]
        assert not sandbox.broken


@pytest.mark.slow
async def test_a_finally_that_does_not_end_is_ended_after_the_grace(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"never": never, "ready": ready}) as sandbox:
        await sandbox.load_script(
            "async function f() { hostcall('ready'); try { await hostcall('never') } finally { await hostcall('never') } }"
        )
        assert 0.5 < await ready.cancel(sandbox.run, "f") < 3


async def test_a_wait_for_nothing_ends_at_once(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(
            "const f = () => { hostcall('ready'); return new Promise(() => {}) }; const ok = () => 1"
        )
        assert await ready.cancel(sandbox.run, "f") < 0.5 * SLACK
        assert await sandbox.run("ok") == 1


async def test_a_cancelled_load_leaves_the_sandbox_usable(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"never": never, "ready": ready}) as sandbox:
        script = "let before = 1; hostcall('ready'); await hostcall('never'); let after = 2"
        await ready.cancel(sandbox.load_script, script)
        await sandbox.load_script("const told = () => before")
        assert await sandbox.run("told") == 1


SPINS = {
    "for": "for (;;);",
    "try": "for (;;) { try { for (;;); } catch {} }",
    "finally": "try { null.x } finally { for (;;); }",
    "regular expression": "/^(a+)+$/.test('a'.repeat(40) + 'b')",
    "JSON.parse": "const text = JSON.stringify(Array.from({ length: 2e5 }, (_, i) => ({ i }))); hostcall('ready');"
    " for (;;) JSON.parse(text)",
    "sort": "for (;;) Array.from({ length: 1e6 }, (_, i) => (i * 7919) % 1000003).sort()",
    "sort with a function": "[...Array(1e5).keys()].sort(() => { for (;;); })",
    "getter": "({ get x() { for (;;); } }).x",
    "getter of a result": "return { get x() { for (;;); } }",
    "toJSON": "return { toJSON() { for (;;); } }",
    "proxy": "return new Proxy({}, { ownKeys() { for (;;); } })",
    "then": "return { get then() { for (;;); } }",
    "microtasks": "const again = () => Promise.resolve().then(again); again(); return new Promise(() => {})",
    "async": "for (;;) await null",
    "thrown getter": "throw { get message() { for (;;); } }",
    "string": "for (;;) 'x'.repeat(1e7).split('')",
    "join": "for (;;) Array(1e6).join('abc').length",
    "bigint": "let n = 3n; for (;;) n = n * n % (2n ** 200000n) + 1n",
    "BigInt power": "for (;;) (3n ** 100000n).toString()",
    "structuredClone": "const a = Array(1e5).fill({ a: 1 }); hostcall('ready'); for (;;) structuredClone(a)",
    "iterator": "return { next() { for (;;); } }",
    "eval": "const f = new Function('for (;;);'); f()",
    "interval": "return new Promise(() => { setInterval(() => { hostcall('ready'); for (;;); }, 1) })",
    "console": "for (;;) console.log('x'.repeat(1000))",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPINS)
async def test_what_spins_is_stopped(template: SandboxTemplate, kind: str, ready: Ready) -> None:
    code = SPINS[kind] if "ready" in SPINS[kind] else f"hostcall('ready'); {SPINS[kind]}"
    async with template.create(max_output=1 << 40, hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(f"async function f() {{ {code} }}")
        assert await ready.cancel(sandbox.run, "f") < 0.5 * SLACK
        if sandbox.broken:
            with pytest.raises(SandboxBrokenError):
                await sandbox.run("f")


async def test_a_script_that_spins_is_stopped(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"ready": ready}) as sandbox:
        assert await ready.cancel(sandbox.load_script, "hostcall('ready'); for (;;);") < 0.5 * SLACK


async def test_what_a_run_leaves_running_ends_with_it(template: SandboxTemplate) -> None:
    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script(
            """
            const log = [];
            async function left(work) { try { await work } catch (e) { log.push(e.name) } finally { log.push('end') } }
            function f() {
              left(hostcall('never'));
              left(new Promise(resolve => setTimeout(resolve, 1e6)));
              setTimeout(() => log.push('timer'), 1);
              setInterval(() => log.push('interval'), 1);
              return 'value';
            }
            async function again() {
              (async () => { for (;;) { try { await hostcall('never') } catch { log.push('again'); if (log.length > 50) return } } })();
              return 1;
            }
            const told = () => log;
            const rest = () => new Promise(resolve => setTimeout(resolve, 20));
            """
        )
        with anyio.fail_after(5):
            assert await sandbox.run("f") == "value"
            assert await sandbox.run("rest") is None
            told: Any = await sandbox.run("told")
            assert sorted(told) == ["AbortError", "AbortError", "end", "end"]
            assert await sandbox.run("again") == 1


async def test_leftovers_are_cancelled_in_silence(template: SandboxTemplate) -> None:
    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script(
            "function f() { hostcall('never'); (async () => { await hostcall('never') })();"
            " (async () => { await new Promise(r => setTimeout(r, 1e6)) })(); return 1 }"
        )
        async with sandbox.run_stream("f") as events:
            assert [event async for event in events if isinstance(event, LogEvent)] == []


async def test_timers_keep_their_time_and_order_without_holding_a_thread(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            """
            async function f() {
              const seen = [];
              const began = performance.now();
              setTimeout(() => { seen.push('b'); Promise.resolve().then(() => seen.push('b micro')) }, 20);
              setTimeout(() => seen.push('c'), 20);
              setTimeout((...given) => seen.push(given), 1, 'a', 1);
              const cleared = setTimeout(() => seen.push('never'), 5);
              clearTimeout(cleared);
              clearTimeout(undefined); clearTimeout(12345);
              let ticks = 0;
              await new Promise(resolve => { const i = setInterval(() => { if (++ticks === 3) { clearInterval(i); resolve() } }, 25) });
              seen.push('ticks ' + ticks);
              return [seen, performance.now() - began];
            }
            """
        )
        result: Any = await sandbox.run("f")
        seen, took = result
        assert seen == [["a", 1], "b", "b micro", "c", "ticks 3"]
        assert 74 <= took < 400 * SLACK
        assert sandbox.usage.cpu_s < 0.05


async def test_timers_of_one_delay_fire_in_the_order_they_were_made(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            """
            async function f() {
              const seen = [[], [], []];
              const all = Array.from({ length: 300 }, (_, i) => new Promise(resolve => {
                const timer = setTimeout(() => { seen[i % 3].push(i); resolve() }, 5 * (i % 3));
                if (i % 7 === 0) { clearTimeout(timer); resolve() }
              }));
              await Promise.all(all);
              return seen;
            }
            """
        )
        assert await sandbox.run("f") == [[i for i in range(delay, 300, 3) if i % 7] for delay in range(3)]


async def test_hostcalls_of_one_guest_run_in_parallel(template: SandboxTemplate) -> None:
    under_way = 0
    all_are = anyio.Event()

    async def meet(payload: float) -> float:
        nonlocal under_way
        under_way += 1
        if under_way == 20:
            all_are.set()
        await all_are.wait()
        return payload

    async with template.create(hostcalls={"meet": meet}) as sandbox:
        await sandbox.load_script("const f = () => Promise.all([...Array(20).keys()].map(i => hostcall('meet', i)))")
        with anyio.fail_after(60):
            assert await sandbox.run("f") == list(range(20))


async def test_a_hostcalls_failure_has_its_parts(template: SandboxTemplate) -> None:
    async def bad(_payload: object) -> None:
        raise LookupError("no such thing")

    async with template.create(hostcalls={"bad": bad}) as sandbox:
        await sandbox.load_script(
            "async function f(name) { try { await hostcall(name, 1) } catch (e) {"
            " return [e instanceof Error, e.name, e.hostcall, e.type, e.message, /^ *at f \\(h\\.js:1:\\d+\\)$/.test(e.stack)] } }",
            filename="h.js",
        )
        assert await sandbox.run("f", "bad") == [True, "HostcallError", "bad", "LookupError", "no such thing", True]
        known: Any = await sandbox.run("f", "unknown")
        assert known[:3] == [True, "HostcallError", "unknown"]


async def test_a_hostcalls_payload_must_be_able_to_cross(template: SandboxTemplate) -> None:
    async with template.create(hostcalls={"echo": lambda value: value}, max_payload=1000) as sandbox:
        await sandbox.load_script(
            "async function f(make) { try { return await hostcall('echo', eval(make)) } catch (e) { return e.name } }"
        )
        assert await sandbox.run("f", "({ a: [1, 'x', new Uint8Array(2)] })") == {"a": [1, "x", b"\0\0"]}
        assert await sandbox.run("f", "undefined") is None
        assert await sandbox.run("f", "() => 1") == "TypeError"
        assert await sandbox.run("f", "'x'.repeat(5000)") == "RangeError"


async def test_what_an_earlier_run_left_cannot_speak_for_the_next(template: SandboxTemplate, ready: Ready) -> None:
    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script(
            """
            let late, stream;
            const wait = () => new Promise(resolve => { late = resolve; hostcall('ready') });
            async function* endless() { yield wait() }
            async function keep(numbers) { stream = numbers; return (await numbers.next()).value }
            async function next(numbers) {
              late('from the first');
              await null;
              await stream.next().catch(() => {});
              await stream.next().catch(() => {});
              stream.return();
              return ['from the second', (await numbers.next()).value];
            }
            """
        )
        stream = StreamArg.from_iterable
        assert await sandbox.run("keep", stream([1, 2])) == 1
        for name in ("wait", "endless"):
            await ready.cancel(sandbox.run, name)
            assert await sandbox.run("next", stream([7, 8])) == ["from the second", 7]
