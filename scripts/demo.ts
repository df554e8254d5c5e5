/**
 * `make demo`: from Debian packages to a command in a named VM and away again, as a transcript. Then it looks at
 * the host from outside and fails when anything of the VM is left. Usage: node scripts/demo.ts DIRECTORY
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { DaemonStatus } from '../src/api/system.ts';
import type { Vm, VmDetail } from '../src/api/vm.ts';
import { takeDaemonLock } from '../src/daemon/lock.ts';
import { BangerError, messageOf } from '../src/errors.ts';
import { formatDuration } from '../src/units.ts';
import { type DevHome, openDevHome } from './dev-home.ts';
import { mountsBelow, type Trace, tracesOf } from './host-traces.ts';
import { banger, CommandFailure, type CommandOptions, requireBuild } from './transcript.ts';

const VM = 'demo';
const FORK = 'twin';
const OURS = new Set([VM, FORK]);
const SECOND = 1000;
/** A first build downloads some 150 MB; the other limits are several times what an emulated guest needs. */
const BUILD_LIMIT_MS = 1800 * SECOND;
const BOOT_LIMIT_MS = 300 * SECOND;
const LIMIT_MS = 120 * SECOND;
/** SSH answers before systemd itself does, so the question is repeated until there is an answer. */
const BOOT_COMPLETE =
  'until systemctl is-system-running --wait 2>/dev/null | grep -E "running|degraded"; do sleep 1; done';

class Interrupted extends Error {
  override name = 'Interrupted';
}

await main(process.argv[2]);

async function main(directory: string | undefined): Promise<void> {
  if (directory === undefined) {
    console.error('usage: node scripts/demo.ts DIRECTORY');
    process.exitCode = 2;
    return;
  }
  const stop = stopOnSignals();
  const begun = performance.now();
  try {
    requireBuild();
    const dev = await openDevHome(directory);
    using _lock = lockDirectory(dev);
    try {
      await demonstrate(dev, stop);
    } catch (error) {
      await cleanUp(dev);
      throw error;
    }
    console.log(`\nThe demo took ${formatDuration(performance.now() - begun)}.`);
  } catch (error) {
    process.exitCode = error instanceof Interrupted ? 130 : 1;
    console.error(`\ndemo: ${messageOf(error)}`);
  }
}

async function demonstrate(dev: DevHome, signal: AbortSignal): Promise<void> {
  const run = (args: readonly string[], limitMs = LIMIT_MS) => banger(args, { env: dev.env, limitMs, signal });
  const read = (...args: string[]) => banger(args, { env: dev.env, limitMs: LIMIT_MS, signal, output: 'both' });
  const ask = async <T>(...args: string[]): Promise<T> =>
    JSON.parse(await banger([...args, '--json'], { env: dev.env, limitMs: LIMIT_MS, signal, output: 'silent' })) as T;

  const mountsBefore = await mountsBelow(dev.directory);
  await clearLeftovers(dev, signal);
  console.log('A banger of its own, apart from any other on this machine:');
  for (const [name, value] of Object.entries(dev.settings)) console.log(`$ export ${name}=${value}`);

  await run(['bundle', 'build', '--output', dev.bundle], BUILD_LIMIT_MS);
  await run(['run', VM], BOOT_LIMIT_MS);
  expect(await read('ls'), new RegExp(`^${VM} +running `, 'm'), 'the list does not show the VM as running');
  expect(await read('exec', VM, '--', 'sh', '-c', BOOT_COMPLETE), /^running$/m, 'a unit failed');
  expect(await read('exec', VM, '--', 'uname', '-a'), new RegExp(`^Linux ${VM} `), 'uname does not name the VM');
  expect(await read('exec', VM, '--', 'head', '-n', '2', '/etc/os-release'), /Debian/, 'the guest is no Debian');
  await run(['vm', 'show', VM]);

  const vm = await ask<VmDetail>('vm', 'show', VM);
  await showFork(vm, run, read);
  const traces = tracesOf(dev, vm, await ask<DaemonStatus>('daemon', 'status'), mountsBefore);
  const counts = await countWhileRunning(traces);
  await run(['stop', VM]);
  await run(['rm', '--now', VM]);
  await run(['daemon', 'stop']);
  await requireGone(traces, counts);
  await removeRunDirectory(dev);
}

/** Another computer that begins as the first one stands. */
async function showFork(
  { vmm }: VmDetail,
  run: (args: readonly string[]) => Promise<string>,
  read: (...args: string[]) => Promise<string>,
): Promise<void> {
  try {
    await run(['fork', VM, FORK]);
  } catch (error) {
    // Firecracker can since 1.12; one of this project's own always can
    if (!(error instanceof CommandFailure) || vmm === 'fcqemu') throw error;
    return;
  }
  expect(await read('exec', FORK, '--', 'hostname'), new RegExp(`^${FORK}$`, 'm'), 'the fork has not its own name');
  await run(['rm', '--force', '--now', FORK]);
}

/** What an earlier run left when it was killed; VMs that somebody else made here are not ours to delete. */
async function clearLeftovers(dev: DevHome, signal: AbortSignal): Promise<void> {
  const quietly: CommandOptions = { env: dev.env, limitMs: LIMIT_MS, signal, output: 'silent' };
  // first: a daemon of an older build may still run
  await banger(['daemon', 'stop'], quietly);
  const vms = JSON.parse(await banger(['ls', '--json'], quietly)) as Vm[];
  const others = vms.filter(({ name }) => !OURS.has(name)).map(({ name }) => name);
  if (others.length > 0) {
    throw new CommandFailure(`${dev.home} has other VMs: ${others.join(', ')}. Give the demo another directory.`);
  }
  if (vms.length === 0) return;
  console.log('An earlier demo left VMs behind; they are deleted first.\n');
  await banger(['rm', '--force', '--now', ...vms.map(({ name }) => name)], quietly);
}

/** A check that finds nothing while the VM runs would find nothing afterwards whatever happened. */
async function countWhileRunning(traces: readonly Trace[]): Promise<Map<Trace, number>> {
  const counts = new Map<Trace, number>();
  for (const trace of traces) {
    const found = await trace.find();
    if (trace.whileRunning && found.length === 0) throw new CommandFailure(`The VM runs, but without ${trace.what}.`);
    if (!trace.whileRunning && found.length > 0) throw new CommandFailure(`There are ${trace.what}: ${found.join()}.`);
    counts.set(trace, found.length);
  }
  return counts;
}

async function requireGone(traces: readonly Trace[], counts: ReadonlyMap<Trace, number>): Promise<void> {
  console.log('\nWhat the host has of it:   while it ran   now');
  const left: string[] = [];
  for (const trace of traces) {
    const found = await trace.find();
    const numbers = `${String(counts.get(trace) ?? 0).padStart(2)} ${String(found.length).padStart(5)}`;
    console.log(`  ${numbers}   ${found.length === 0 ? 'ok  ' : 'LEFT'}  ${trace.what}`);
    left.push(...found.map((each) => `${trace.what}: ${each}`));
  }
  if (left.length > 0) throw new CommandFailure(`This is left on the host:\n  ${left.join('\n  ')}`);
}

/** Ends everything however far the demo came; the bundle stays for the next one. Says what it could not do. */
async function cleanUp(dev: DevHome): Promise<void> {
  const quietly: CommandOptions = { env: dev.env, limitMs: LIMIT_MS, output: 'silent' };
  try {
    const vms = JSON.parse(await banger(['ls', '--json'], quietly)) as Vm[];
    const ours = vms.map(({ name }) => name).filter((name) => OURS.has(name));
    if (ours.length > 0) await banger(['rm', '--force', '--now', ...ours], quietly);
    await banger(['daemon', 'stop'], quietly);
    if (ours.length === vms.length) await removeRunDirectory(dev);
  } catch (error) {
    console.error(`\ndemo: not everything could be cleaned up: ${messageOf(error)}`);
  }
}

/** One outside of the demo's directory is ours alone; sockets of VMs that run would be lost with it. */
async function removeRunDirectory(dev: DevHome): Promise<void> {
  if (dev.run !== join(dev.home, 'run')) await rm(dev.run, { recursive: true, force: true });
}

function expect(output: string, pattern: RegExp, otherwise: string): void {
  if (!pattern.test(output)) throw new CommandFailure(`The last command said something unexpected: ${otherwise}.`);
}

/** Two demos in one directory would delete each other's VM. */
function lockDirectory(dev: DevHome): Disposable {
  try {
    return takeDaemonLock(join(dev.directory, 'demo.lock'));
  } catch (error) {
    if (!(error instanceof BangerError) || error.code !== 'conflict') throw error;
    throw new CommandFailure(`Another demo runs in ${dev.directory}. Wait for it, or use another directory.`);
  }
}

/** The first Ctrl-C undoes what was begun; a reader that leaves (`| head`) must not keep us from doing so. */
function stopOnSignals(): AbortSignal {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (!stop.signal.aborted) console.error('\ndemo: interrupted, cleaning up …');
      stop.abort(new Interrupted('Interrupted; what was begun is undone.'));
    });
  }
  for (const output of [process.stdout, process.stderr]) output.on('error', () => {});
  return stop.signal;
}
