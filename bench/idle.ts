/**
 * What a daemon costs that has nothing to do: starts VMs, waits until they and the daemon are quiet, and prints how much
 * CPU time the daemon, the programs it started and its lasting children took, per minute, and what is resident. Exits
 * with 1 when that is over the limit. The VMMs' own time is printed and not judged.
 *
 *   [BANGER_TEST_BUNDLE=DIR] node bench/idle.ts [VMS] [SECONDS] [suspended]
 *
 * Needs root, dist/banger (make build) and a bundle (node scripts/test-bundle.ts "$PWD/.dev"). Without VMS it is 5, without SECONDS it is 120.
 * With `suspended` they are suspended before.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TestHost } from '../test/support/host.ts';
import { leanBundle } from '../test/support/lean-bundle.ts';

/** Ticks of 10 ms per minute, of the daemon and everything it starts: 0.05 % of one CPU. */
const LIMIT_TICKS = 3;
/** Guests go on with their boot after they let one in, and the daemon collects garbage once after 5 s. */
const SETTLE_MS = 45_000;

const vms = Number(process.argv[2] ?? 5);
const seconds = Number(process.argv[3] ?? 120);
const suspended = process.argv[4] === 'suspended';
const dev = join(import.meta.dirname, '../.dev');
const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? join(dev, 'bundle'), dev);
await using host = await TestHost.create({ env: { BANGER_BUNDLE_DEFAULT: bundle } });
const { pid } = await host.daemon();
for (let made = 0; made < vms; made++) {
  await host.ok('run', '--memory', '256M', `idle-${made}`);
  if (suspended) await host.ok('suspend', `idle-${made}`);
}
await sleep(SETTLE_MS);

const before = sample();
await sleep(seconds * 1000);
const after = sample();
const perMinute = (name: keyof typeof before) => ((after[name] - before[name]) * 60) / seconds;
const own = perMinute('ownTicks');
const started = perMinute('startedTicks');
const lasting = perMinute('lastingTicks');
console.log(`${vms} ${suspended ? 'suspended ' : ''}VMs, ${seconds} s; ticks of 10 ms per minute`);
console.log(`daemon itself       ${own.toFixed(1)}  (${perMinute('ownMs').toFixed(1)} ms by the scheduler's account)`);
console.log(`programs it ran     ${started.toFixed(1)}`);
console.log(`lasting children    ${lasting.toFixed(1)}`);
console.log(`VMMs without guest  ${perMinute('vmmMs').toFixed(0)} ms`);
console.log(
  `resident            ${Math.round(residentKib(pid) / 1024)} MiB, ${after.wakeups - before.wakeups} wake-ups`,
);
if (own + started + lasting > LIMIT_TICKS) {
  console.log(`more than ${LIMIT_TICKS} ticks per minute`);
  process.exitCode = 1;
}

function sample() {
  const stat = statOf(pid);
  const children = childrenOf(pid);
  // a VMM leads a session of its own
  const lasting = children.filter((child) => statOf(child).session !== child);
  const vmms = children.filter((child) => statOf(child).session === child);
  const sum = (of: readonly number[], figure: (pid: number) => number) =>
    of.reduce((all, each) => all + figure(each), 0);
  return {
    ownTicks: stat.ticks,
    startedTicks: stat.childTicks,
    lastingTicks: sum(lasting, (child) => statOf(child).ticks),
    ownMs: runMs(pid),
    vmmMs: sum(vmms, runMs),
    wakeups: wakeups(pid),
  };
}

/** Fields of /proc/PID/stat; they are counted after the command name, which may hold anything. */
function statOf(process: number): { session: number; ticks: number; childTicks: number } {
  const stat = readFileSync(`/proc/${process}/stat`, 'utf8');
  const fields = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [session = 0, utime = 0, stime = 0, cutime = 0, cstime = 0] = [3, 11, 12, 13, 14].map((at) => fields[at]);
  return { session, ticks: utime + stime, childTicks: cutime + cstime };
}

/** Time on a CPU in `ms`, of all threads. */
function runMs(process: number): number {
  return readdirSync(`/proc/${process}/task`).reduce(
    (all, task) => all + Number(readFileSync(`/proc/${process}/task/${task}/schedstat`, 'utf8').split(' ')[0]) / 1e6,
    0,
  );
}

function wakeups(process: number): number {
  return readdirSync(`/proc/${process}/task`).reduce((all, task) => {
    const status = readFileSync(`/proc/${process}/task/${task}/status`, 'utf8');
    return all + Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1]);
  }, 0);
}

function childrenOf(process: number): number[] {
  return readFileSync(`/proc/${process}/task/${process}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
}

function residentKib(process: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${process}/status`, 'utf8'))?.[1]);
}
