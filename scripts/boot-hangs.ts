/**
 * Looks for guests that stop for ever while QEMU emulates them. Boots the bundle's kernel many times with the arguments fcqemu gives
 * QEMU, a few at once; each guest then sleeps, forks and writes a line a second. One that is silent for long is a
 * catch: what its threads do, its processors' registers with the names of the functions, local APICs, I/O APIC, PIC and timers are
 * read over QMP and written to a file, then it is stopped and continued, which wakes processors up, to see whether that helps.
 *
 * Usage: BANGER_TEST_BUNDLE=DIR [HANGS_DIRECTORY=DIR] nice -n 19 node scripts/boot-hangs.ts [VARIANT …]
 *   HANGS_MINUTES=5  in which so many are booted as can be
 *   HANGS_AT_ONCE=2  guests
 *   HANGS_SECONDS=3  each lives after its boot
 *   HANGS_FREEZE=0   `ms` at most that QEMU is stopped for, again and again while its guest boots: what a busy host does to it
 * Variants, in turns (default `watched:1 as-is:1 watched:2 as-is:2`): NAME:CPUS, see VARIANTS. As fcqemu runs guests is `watched`.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type QemuSpec, qemuArguments } from '../fcqemu/qemu/arguments.ts';
import { type QemuProcess, startQemu } from '../fcqemu/qemu/process.ts';
import { Qmp } from '../fcqemu/qemu/qmp.ts';
import { emulationArguments } from '../fcqemu/vmm/start.ts';
import { watchTimer } from '../fcqemu/vmm/timer-watch.ts';
import { bundleSkipReason, TEST_INIT_ARGUMENT, testBundle, testInitrd } from '../test/fcqemu/support/test-initrd.ts';

interface Variant {
  /** changes arguments of the kernel */
  kernel?: (words: string[]) => string[];
  /** changes arguments of QEMU */
  qemu?: (args: string[]) => string[];
  /** started over when its timer is wrong, as fcqemu does */
  watched?: boolean;
}

const replaced = (from: string, to: string) => (args: string[]) => args.map((arg) => arg.replaceAll(from, to));
const without = (word: string) => (words: string[]) => words.filter((other) => !other.startsWith(word));
const and = (word: string) => (words: string[]) => [...words, word];

const VARIANTS: Record<string, Variant> = {
  watched: { watched: true },
  'as-is': {},
  single: { qemu: replaced('thread=multi', 'thread=single') },
  icount: { qemu: (args) => [...replaced('thread=multi', 'thread=single')(args), '-icount', 'shift=auto,sleep=on'] },
  'no-early-tsc': { kernel: without('tsc_early_khz') },
  'unchecked-timer': { kernel: and('no_timer_check') },
  'known-lapic': { kernel: and('lapic_timer_c2_ok') },
  'tsc-clock': { kernel: and('clocksource=tsc') },
  'no-deadline': { kernel: and('lapic=notscdeadline') },
  'no-pit': { qemu: replaced('pit=on', 'pit=off') },
  'no-pit-pic': { qemu: (args) => replaced('pic=on', 'pic=off')(replaced('pit=on', 'pit=off')(args)) },
  'polling-idle': { kernel: and('idle=poll') },
  periodic: { kernel: (words) => [...words, 'nohz=off', 'highres=off'] },
  max: { qemu: replaced('EPYC,check=off', 'max') },
};

/**
 * A guest hangs when it is silent for so long and took hardly any CPU time meanwhile, or took so much of it as never lies
 * between two lines. A busy host makes it silent without either.
 */
const IDLE_MS = 20_000;
const IDLE_CPU_MS = 300;
const SPINNING_CPU_MS = 30_000;
const MINUTES = Number(process.env.HANGS_MINUTES ?? 5);
const AT_ONCE = Number(process.env.HANGS_AT_ONCE ?? 2);
const SECONDS = Number(process.env.HANGS_SECONDS ?? 3);
const FREEZE_MS = Number(process.env.HANGS_FREEZE ?? 0);
const WATCH_MS = 1000;

/** Sleeps of many lengths with work between them: a processor that halts, and one that is interrupted. */
const SCRIPT = `echo "timer $(sed -n '/Clock Event Device: lapic/,/mode/s/ *mult: *//p' /proc/timer_list | tr '\\n' ' ')"
n=0
while [ $n -lt ${SECONDS} ]; do
  n=$((n + 1)); echo "alive $n"
  ( i=0; while [ $i -lt 40 ]; do sleep 0.0$((i % 9 + 1)); i=$((i + 1)); done ) &
  sleep 1; i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done
done
wait; echo "all of it"; sleep 1000`;

/** For names of functions: the kernel is loaded where it was linked. */
const SYMBOLS_SCRIPT = `echo "symbols begin"; cat /proc/kallsyms | grep -i ' t '; echo "symbols end"; sleep 1000`;

interface Outcome {
  variant: string;
  /** `ms` from start to its first line and to its last; undefined when it hung */
  upMs: number | undefined;
  doneMs: number | undefined;
  /** how the guest's timers count, as it has measured: 2^32 × their ticks per ns, by processor */
  timers: number[];
  resets: number;
  hung: boolean;
}

const bundle = testBundle() ?? '';
const problem = bundleSkipReason();
if (problem) {
  console.error(problem);
  process.exit(1);
}
const directory = process.env.HANGS_DIRECTORY ?? mkdtempSync(join(tmpdir(), 'boot-hangs-'));
mkdirSync(directory, { recursive: true });
const initrd = join(directory, 'initrd');
writeFileSync(initrd, testInitrd(bundle, SCRIPT));
const symbols = await readSymbols();
await main(process.argv.length > 2 ? process.argv.slice(2) : ['watched:1', 'as-is:1', 'watched:2', 'as-is:2']);

async function main(variants: string[]): Promise<void> {
  const outcomes: Outcome[] = [];
  const end = Date.now() + MINUTES * 60_000;
  let next = 0;
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      while (Date.now() < end) {
        const variant = variants[next++ % variants.length] ?? 'as-is:1';
        outcomes.push(await boot(variant, outcomes.length));
      }
    }),
  );
  console.log(
    `${availableParallelism()} processors, load ${loadavg()[0]?.toFixed(1)}, ${AT_ONCE} at once; ${directory}`,
  );
  for (const variant of variants) {
    const of = outcomes.filter((outcome) => outcome.variant === variant);
    const median = (times: (number | undefined)[]) => {
      const sorted = times.filter((time) => time !== undefined).sort((a, b) => a - b);
      return ((sorted[Math.floor(sorted.length / 2)] ?? Number.NaN) / 1000).toFixed(1);
    };
    const hung = of.filter((outcome) => outcome.hung).length;
    console.log(
      `${variant.padEnd(20)} ${String(of.length).padStart(4)} boots, ${hung} hung; up after ${median(of.map(({ upMs }) => upMs))} s, done after ${median(of.map(({ doneMs }) => doneMs))} s; ${of.reduce((sum, { resets }) => sum + resets, 0)} started over; timers ${spread(of.flatMap(({ timers }) => timers))}`,
    );
  }
}

/** The least, the middle and the greatest; all are the same when nothing is measured wrongly. */
function spread(values: number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  return [sorted[0], sorted[Math.floor(sorted.length / 2)], sorted.at(-1)].join(' ');
}

async function boot(variantName: string, number: number): Promise<Outcome> {
  const begun = performance.now();
  const guest = await startGuest(variantName, initrd);
  const outcome: Outcome = {
    variant: variantName,
    upMs: undefined,
    doneMs: undefined,
    timers: [],
    resets: 0,
    hung: false,
  };
  try {
    while (outcome.doneMs === undefined) {
      if (FREEZE_MS > 0 && outcome.upMs === undefined) await freeze(guest.qemu.pid);
      else await sleep(20);
      const now = performance.now();
      if (outcome.upMs === undefined && guest.said().includes('guest up')) outcome.upMs = now - begun;
      if (guest.said().includes('all of it')) outcome.doneMs = now - begun;
      outcome.resets = guest.resets();
      outcome.timers = (/^timer ([\d ]+)/m.exec(guest.said())?.[1] ?? '').split(' ').filter(Boolean).map(Number);
      if (guest.ended()) throw new Error(`QEMU ended: ${guest.ended()}\n${guest.said()}`);
      if (!hangs(guest, now)) continue;
      outcome.hung = true;
      const file = join(directory, `hang-${number}-${variantName.replace(':', '-')}.txt`);
      console.log(`${variantName} hangs, see ${file}`);
      writeFileSync(file, await autopsy(guest));
      return outcome;
    }
    return outcome;
  } finally {
    await guest.end();
  }
}

/** Lets QEMU run for a moment and then stops it for longer. */
async function freeze(pid: number): Promise<void> {
  await sleep(Math.random() * 20);
  process.kill(pid, 'SIGSTOP');
  await sleep(Math.random() * FREEZE_MS);
  process.kill(pid, 'SIGCONT');
}

function hangs(guest: Guest, now: number): boolean {
  const cpuMs = guest.cpuMs() - guest.cpuMsWhenHeard();
  return cpuMs > SPINNING_CPU_MS || (now - guest.heardAt() > IDLE_MS && cpuMs < IDLE_CPU_MS && !guest.waitsForCpu());
}

interface Guest {
  qemu: QemuProcess;
  qmp: Qmp;
  cpus: number;
  said(): string;
  /** when it last wrote something, or was started */
  heardAt(): number;
  /** how often it was started over */
  resets(): number;
  /** CPU time of QEMU so far */
  cpuMs(): number;
  cpuMsWhenHeard(): number;
  /** a thread of QEMU would run if the host let it */
  waitsForCpu(): boolean;
  ended(): string | undefined;
  end(): Promise<void>;
}

async function startGuest(variantName: string, initrdPath: string): Promise<Guest> {
  const [name = '', cpus = '1'] = variantName.split(':');
  const variant = VARIANTS[name];
  if (!variant) throw new Error(`There is no variant ${name}: ${Object.keys(VARIANTS).join(' ')}`);
  const words = `console=ttyS0 quiet reboot=k panic=1 net.ifnames=0 noautogroup ${TEST_INIT_ARGUMENT} pci=off`.split(
    ' ',
  );
  const kernel = (variant.kernel ?? ((all) => all))([...words, ...emulationArguments('tcg')]);
  const spec: QemuSpec = {
    instanceId: 'hang',
    accelerator: 'tcg',
    vcpuCount: Number(cpus),
    memoryMib: 256,
    kernelPath: join(bundle, 'vmlinux'),
    initrdPath,
    commandLine: kernel.join(' '),
    drives: [],
    interfaces: [],
    announces: false,
    entropy: { rate_limiter: null },
    balloon: null,
    vsock: null,
    sandbox: true,
    restore: false,
  };
  const args = (variant.qemu ?? ((all) => all))(qemuArguments(spec));
  const qemu = await startQemu('qemu-system-x86_64', args, process.env, (line) => console.error(line));
  let text = '';
  let heard = performance.now();
  let cpuMsWhenHeard = 0;
  const tasks = `/proc/${qemu.pid}/task`;
  const cpuMs = () => ticksOf(`/proc/${qemu.pid}/stat`).ticks * 10;
  let how: string | undefined;
  qemu.console.on('data', (bytes: Buffer) => {
    text += bytes.toString('latin1');
    heard = performance.now();
    if (how === undefined) cpuMsWhenHeard = cpuMs();
  });
  void qemu.ended.then((end) => (how = `${end.how} ${end.lastLine ?? ''}`));
  const qmp = new Qmp(qemu.qmp, () => {});
  await qmp.connect();
  await qmp.execute('cont');
  let resets = 0;
  if (variant.watched) void watch();
  return {
    qemu,
    qmp,
    cpus: Number(cpus),
    said: () => text,
    heardAt: () => heard,
    resets: () => resets,
    cpuMs,
    cpuMsWhenHeard: () => cpuMsWhenHeard,
    waitsForCpu: () => readdirSync(tasks).some((tid) => ticksOf(join(tasks, tid, 'stat')).state === 'R'),
    ended: () => how,
    async end() {
      qemu.kill();
      await qemu.ended;
    },
  };

  async function watch(): Promise<void> {
    const vm = {
      pid: qemu.pid,
      paused: false,
      execute: <T>(command: string, args?: Record<string, unknown>) => qmp.execute<T>(command, args),
      reset: async () => {
        resets += 1;
        await qmp.execute('set-action', { reboot: 'reset' });
        await qmp.execute('system_reset');
        await qmp.execute('set-action', { reboot: 'shutdown' });
      },
    };
    await watchTimer(vm, { warn: () => {} });
  }
}

/** All that can be known about a guest that is silent, and what brings it back. */
async function autopsy(guest: Guest): Promise<string> {
  const parts = [`console:\n${guest.said()}`, await threadsOver(guest, WATCH_MS)];
  const ask = async (command: string) => {
    const answer = await guest.qmp.execute<string>('human-monitor-command', { 'command-line': command }).catch(String);
    parts.push(`(${command})\n${answer.replaceAll('\r', '')}`);
    return answer;
  };
  for (const command of ['query-status', 'query-cpus-fast'])
    parts.push(`(${command})\n${JSON.stringify(await guest.qmp.execute(command).catch(String))}`);
  // twice: a processor that runs is elsewhere the second time, and a timer that runs has another count
  for (let round = 0; round < 2; round++) {
    for (let cpu = 0; cpu < guest.cpus; cpu++) {
      const at = (command: string) =>
        guest.qmp
          .execute<string>('human-monitor-command', { 'command-line': command, 'cpu-index': cpu })
          .catch(String)
          .then((answer) => answer.replaceAll('\r', ''));
      const registers = await at('info registers');
      const [, rip = '0'] = /RIP=([0-9a-f]+)/.exec(registers) ?? [];
      const [, rsp = '0'] = /RSP=([0-9a-f]+)/.exec(registers) ?? [];
      const stack = [...(await at(`x/256gx 0x${rsp}`)).matchAll(/0x(ffffffff[0-9a-f]{8})(?!:)/g)];
      parts.push(
        `(cpu ${cpu} is in ${nameOf(rip)})\n${registers.replace(/\n(?:XMM|FPR|YMM|Opmask|ZMM).*/g, '')}`,
        `(cpu ${cpu}: on the stack)\n${stack
          .map(([, address = '']) => nameOf(address))
          .filter((name) => name !== '?')
          .join(' ')}`,
        `(cpu ${cpu}: info lapic)\n${await at('info lapic')}`,
        await at(`x/6i 0x${rip}`),
      );
    }
    await sleep(200);
  }
  for (const command of ['info pic', 'info irq', 'info jit']) await ask(command);
  // the serial port's interrupts allowed, and the state of its line
  for (const command of ['i /b 0x3f9', 'i /b 0x3fd']) await ask(command);
  const before = guest.said().length;
  for (const [nudge, commands] of [
    ['waiting 5 s more', []],
    ['stop and cont', ['stop', 'cont']],
    ['an NMI', ['inject-nmi']],
  ] as const) {
    for (const command of commands) await guest.qmp.execute(command).catch(String);
    await sleep(5000);
    const more = guest.said().slice(before);
    parts.push(`after ${nudge}: ${more ? `it went on:\n${more}` : 'nothing'}`);
    if (more) break;
  }
  // reading what the port interrupts for also acknowledges that
  await ask('i /b 0x3fa');
  await ask('i /b 0x3fa');
  parts.push(await threadsOver(guest, WATCH_MS));
  return parts.join('\n\n');
}

/** What QEMU's threads wait for, and the CPU time they take. */
async function threadsOver(guest: Guest, ms: number): Promise<string> {
  const tasks = `/proc/${guest.qemu.pid}/task`;
  const look = () =>
    new Map(
      readdirSync(tasks).map((tid) => {
        const of = (file: string) => readFileSync(join(tasks, tid, file), 'latin1').trim();
        return [tid, { ...ticksOf(join(tasks, tid, 'stat')), name: of('comm'), at: of('wchan') }];
      }),
    );
  const before = look();
  await sleep(ms);
  const lines = [...look()].map(
    ([tid, { name, state, ticks, at }]) =>
      `${tid} ${name} ${state} in ${at}: ${(ticks - (before.get(tid)?.ticks ?? 0)) * 10} ms of CPU`,
  );
  return `threads in ${ms} ms:\n${lines.join('\n')}`;
}

function ticksOf(stat: string): { state: string; ticks: number } {
  const fields = readFileSync(stat, 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ');
  return { state: fields[0] ?? '', ticks: Number(fields[11]) + Number(fields[12]) };
}

async function readSymbols(): Promise<[address: bigint, name: string][]> {
  const file = join(directory, 'symbols-initrd');
  writeFileSync(file, testInitrd(bundle, SYMBOLS_SCRIPT));
  const guest = await startGuest('as-is:1', file);
  try {
    while (!guest.said().includes('symbols end')) {
      if (hangs(guest, performance.now())) return [];
      await sleep(100);
    }
  } finally {
    await guest.end();
  }
  const found = [...guest.said().matchAll(/^([0-9a-f]{16}) [tT] (\S+)/gm)];
  return found
    .map(([, address = '0', name = '']): [bigint, string] => [BigInt(`0x${address}`), name])
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

function nameOf(address: string): string {
  const value = BigInt(`0x${address}`);
  const [begin, name] = symbols.findLast(([start]) => start <= value) ?? [0n, '?'];
  return value - begin < 0x10000n && name !== '?' ? `${name}+0x${(value - begin).toString(16)}` : '?';
}
