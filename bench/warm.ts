/**
 * What a VM costs that goes on from memory: `run` from a template, suspend, resume to the first command, fork to the first
 * command of the fork, with the page cache warm and with it dropped. Prints p50 and p95, beside cold starts in the same run.
 *
 *   node bench/warm.ts BUNDLE_DIRECTORY [ROUNDS] [run|pool|suspend|resume|fork|wake|rest ...]
 *
 * `pool` is `run` with a guest that stands ready for each VM; one of the two at a time. `wake` is a TCP connection to a suspended VM, up to the first byte of
 * the answer. `rest` is what each of 20 forks has of its own when all are at rest.
 *
 * Needs root, dist/banger (make build), mkfs.xfs (apt-get install xfsprogs), and a bundle with the agent.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { loadavg } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Operation } from '../src/api/operation.ts';
import type { VmDetail, VmForkResult } from '../src/api/vm.ts';
import { createClient } from '../src/client/client.ts';
import { followOperation } from '../src/client/follow-operation.ts';

const MEMORY = '256M';
const bundle = resolve(process.argv[2] ?? '.dev/bundle');
const ROUNDS = Number(process.argv[3] ?? 20);
const wanted = new Set(process.argv.length > 4 ? process.argv.slice(4) : ['run', 'suspend', 'resume', 'fork']);
const pooled = wanted.has('pool');
/** Made in one operation. */
const FORKS_AT_ONCE = 5;
/** How long forks are left alone before what they have is counted. */
const REST_MS = 60_000;
/** Each takes as long as all warm ones together. */
const COLD_ROUNDS = Math.ceil(ROUNDS / 10);
const banger = join(import.meta.dirname, '../dist/banger');
const work = mkdtempSync('/tmp/banger-bench-');
const [image, disk] = [join(work, 'image'), join(work, 'disk')];
const env = {
  ...process.env,
  BANGER_HOME: join(disk, 'home'),
  BANGER_BUNDLE_DEFAULT: join(disk, 'bundle'),
  BANGER_WARM_AUTOMATIC: 'false',
  BANGER_POOL_READY: pooled ? '1' : '0',
};
const run = (...args: string[]) =>
  execFileSync(banger, args, { env, stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' });

/** Samples in `ms` by what they are of. */
const samples = new Map<string, number[]>();

function note(what: string, ms: number): void {
  samples.set(what, [...(samples.get(what) ?? []), ms]);
}

async function timed<T>(what: string, work: () => Promise<T> | T): Promise<T> {
  const began = performance.now();
  const result = await work();
  note(what, performance.now() - began);
  return result;
}

/** Memory files are read from the disk again. */
function dropCache(): void {
  execFileSync('sync');
  writeFileSync('/proc/sys/vm/drop_caches', '1');
}

mkdirSync(disk);
execFileSync('truncate', ['--size=16G', image]);
execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=1', image]);
execFileSync('mount', ['-o', 'loop', image, disk]);
try {
  execFileSync('cp', ['-a', '--sparse=always', bundle, join(disk, 'bundle')]);
  run('daemon', 'start', '--quiet');
  const client = createClient({ socketPath: join(disk, 'home/run/bangerd.sock') });
  const perform = async (begin: Promise<Operation>): Promise<Operation> => {
    const operation = await followOperation(client, (await begin).id, () => {});
    if (operation.state !== 'succeeded') throw new Error(operation.error?.message ?? operation.state);
    return operation;
  };
  const first = (name: string) => run('exec', '-n', name, '--', 'true');
  /** Waits for what a guest leaves for after its boot: for some ten seconds it takes the processor from whatever is measured. */
  const settle = (name: string) => {
    const done =
      'systemctl is-active -q banger-rest.target && udevadm settle && systemctl list-jobs | grep -q "No jobs"';
    run('exec', '-n', name, '--', 'sh', '-c', `until ${done}; do sleep 1; done; sleep 3`);
  };
  /** Without the command's own process. */
  const execInDaemon = async (name: string) => {
    const stream = await client.exec(name, { argv: ['true'] });
    stream.resume();
    await once(stream, 'close');
  };
  const remove = (name: string) => run('rm', '--force', '--now', name, '--quiet');
  const size = ['--memory', MEMORY, '--work-disk', '64M'];
  const measureWake = async () => {
    const server =
      'use Socket; socket(S,2,1,0); bind(S,sockaddr_in(7,INADDR_ANY)); listen(S,9); while(accept(C,S)){syswrite(C,"x");close C}';
    run('exec', '-n', 'web', '--', 'sh', '-c', `setsid perl -e '${server}' > /dev/null 2>&1 &`);
    // one that is not to be suspended when it is idle is not resumed by connections either
    run('set', 'web', '--idle-suspend', '1d', '--quiet');
    const { address } = JSON.parse(run('show', 'web', '--json')) as VmDetail;
    const answer = async () => {
      const socket = connect({ host: address, port: 7 });
      // also one that comes after the answer
      socket.on('error', () => {});
      const [byte] = (await once(socket, 'data')) as [Buffer];
      socket.destroy();
      if (byte[0] !== 'x'.charCodeAt(0)) throw new Error('another answer');
    };
    while (
      !(await answer().then(
        () => true,
        () => false,
      ))
    )
      await sleep(100);
    for (let round = 0; round < ROUNDS; round++) {
      await timed('TCP connection to a VM that is up, to the first byte', answer);
      await perform(client.call('suspendVm', { params: { name: 'web' } }));
      await sleep(500);
      await timed('TCP connection to a suspended VM, to the first byte', answer);
    }
  };
  const measureRest = async () => {
    const names = Array.from({ length: 20 }, (_, index) => `rest-${index}`);
    await timed('20 forks (operation)', () =>
      perform(client.call('forkVm', { params: { name: 'web' }, body: { names } })),
    );
    await sleep(REST_MS);
    for (const name of names) {
      const { pid } = JSON.parse(run('show', name, '--json')) as VmDetail;
      note('memory of the guest that a fork has of its own, KiB', ownOfGuestKib(pid ?? 0));
    }
    for (const name of names) remove(name);
  };
  /** What each fork takes that is made in one operation with another, beside the only one of an operation. */
  const measureFurther = async () => {
    const took = async (names: readonly string[]) => {
      const began = performance.now();
      await perform(client.call('forkVm', { params: { name: 'web' }, body: { names: [...names] } }));
      const ms = performance.now() - began;
      for (const name of names) remove(name);
      return ms;
    };
    const one = await took(['only']);
    const several = await took(Array.from({ length: FORKS_AT_ONCE }, (_, index) => `one-of-${index}`));
    note('fork (operation), the only one', one);
    note(`fork (operation), each of ${FORKS_AT_ONCE} beyond the first`, (several - one) / (FORKS_AT_ONCE - 1));
  };
  /** What a VM that runs costs on its way to disk and back, and one that begins as it. */
  const measureOne = async () => {
    await timed('cold start to ready', () => run('run', '--cold', 'web', ...size, '--quiet'));
    if (JSON.parse(run('show', 'web', '--json')).agent?.state !== 'present') throw new Error('the bundle has no agent');
    settle('web');
    if (wanted.has('suspend')) {
      run('run', '--cold', 'big', '--memory', '512M', '--work-disk', '64M', '--quiet');
      for (let round = 0; round < ROUNDS; round++) {
        await timed('suspend of 512 MiB (operation)', () =>
          perform(client.call('suspendVm', { params: { name: 'big' } })),
        );
        run('resume', 'big', '--quiet');
      }
      remove('big');
    }
    if (wanted.has('wake')) await measureWake();
    if (wanted.has('rest')) await measureRest();
    for (let round = 0; round < ROUNDS; round++) {
      if (wanted.has('suspend') || wanted.has('resume')) {
        for (const cache of ['warm', 'dropped']) {
          await timed(`suspend (operation), cache ${cache}`, () =>
            perform(client.call('suspendVm', { params: { name: 'web' } })),
          );
          if (cache === 'dropped') dropCache();
          await timed(`resume to first exec, cache ${cache}`, async () => {
            await timed(`resume (operation), cache ${cache}`, () =>
              perform(client.call('resumeVm', { params: { name: 'web' } })),
            );
            first('web');
          });
        }
      }
      if (wanted.has('fork')) {
        await timed('fork to first exec', async () => {
          const { result } = await timed('fork (operation)', () =>
            perform(client.call('forkVm', { params: { name: 'web' }, body: { names: ['twin'] } })),
          );
          note('fork: source paused', (result as VmForkResult).pausedMs);
          first('twin');
        });
        remove('twin');
        await measureFurther();
      }
      await timed('exec of a VM that is up, with the command', () => first('web'));
      await timed('exec of a VM that is up, in the daemon', () => execInDaemon('web'));
    }
  };
  /** A daemon makes the next one when nobody has asked for anything for a while. */
  const untilOneWaits = async () => {
    while (pooled && (await client.call('status', {})).standby?.ready !== 1) await sleep(100);
  };
  if (wanted.has('run') || pooled) {
    await timed('template, made by image warm', () => run('image', 'warm', ...size, '--quiet'));
    for (let round = 0; round < ROUNDS; round++) {
      for (const cache of ['warm', 'dropped']) {
        await untilOneWaits();
        if (cache === 'dropped') dropCache();
        await timed(`run NAME -- true from a template, cache ${cache}`, () =>
          run('run', 'new', ...size, '--quiet', '-n', '--', 'true'),
        );
        const { readyMs, bootTimeline } = JSON.parse(run('show', 'new', '--json')) as VmDetail;
        note(`  of it until ready, cache ${cache}`, readyMs ?? Number.NaN);
        for (const { step, startedMs, durationMs } of bootTimeline) {
          note(`    ${step}, begun, cache ${cache}`, startedMs);
          note(`    ${step}, cache ${cache}`, durationMs);
        }
        if (cache === 'warm') {
          await timed('kill, with the command', () => run('kill', 'new', '--quiet'));
          await timed('rm --now of a stopped VM, with the command', () => run('rm', '--now', 'new', '--quiet'));
        } else await timed('rm --force --now of a running VM, with the command', () => remove('new'));
        await timed('a command that does nothing (daemon status)', () => run('daemon', 'status', '--json'));
      }
    }
    for (let round = 0; round < COLD_ROUNDS; round++) {
      await timed('run --cold NAME -- true', () => run('run', '--cold', 'new', ...size, '--quiet', '-n', '--', 'true'));
      remove('new');
    }
  }
  if (['suspend', 'resume', 'fork'].some((what) => wanted.has(what))) await measureOne();
  console.log(`${ROUNDS} rounds, ${MEMORY}, load ${loadavg()[0]?.toFixed(1)}, ${processorOf()}`);
  for (const [what, values] of samples) {
    const [p50, p95] = [0.5, 0.95].map((share) => at(values, share));
    console.log(`${what.padEnd(48)} p50 ${format(p50)}  p95 ${format(p95)}  (${values.length})`);
  }
} finally {
  for (const name of run('ls', '--names').split('\n').filter(Boolean)) run('rm', '--force', '--now', name, '--quiet');
  run('daemon', 'stop', '--quiet');
  execFileSync('umount', [disk]);
  rmSync(work, { recursive: true, force: true });
}

function at(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

function format(ms: number | undefined): string {
  return `${(ms ?? Number.NaN).toFixed(0).padStart(6)} ms`;
}

/** Private pages of the mapping that is the guest's memory, in the QEMU that a VMM has started. */
function ownOfGuestKib(vmmPid: number): number {
  const qemu = readFileSync(`/proc/${vmmPid}/task/${vmmPid}/children`, 'latin1').trim().split(' ').at(0);
  const mappings = readFileSync(`/proc/${qemu}/smaps`, 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const memory = mappings.find(
    (mapping) => Number(/^Size: +(\d+)/m.exec(mapping)?.[1]) === Number.parseInt(MEMORY, 10) * 1024,
  );
  return Number(/^Anonymous: +(\d+)/m.exec(memory ?? '')?.[1] ?? Number.NaN);
}

function processorOf(): string {
  return /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1] ?? 'unknown processor';
}
