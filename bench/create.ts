/**
 * How long `create` takes where clones share blocks: a store on a loop-mounted XFS, several VMs in a row. Prints what
 * the operation took inside the daemon and what the whole command took; exits with 1 when the operation's median is
 * over 100 ms.
 *
 *   node bench/create.ts BUNDLE_DIRECTORY [VMS]
 *
 * Needs root, dist/banger (make build), and mkfs.xfs (apt-get install xfsprogs).
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join, resolve } from 'node:path';
import type { Operation } from '../src/api/operation.ts';

const LIMIT_MS = 100;
const bundle = resolve(process.argv[2] ?? '.dev/bundle');
const vms = Number(process.argv[3] ?? 15);
const banger = join(import.meta.dirname, '../dist/banger');
const work = mkdtempSync('/tmp/banger-bench-');
const [image, disk] = [join(work, 'image'), join(work, 'disk')];
const env = {
  ...process.env,
  BANGER_HOME: join(disk, 'home'),
  BANGER_BUNDLE_DEFAULT: join(disk, 'bundle'),
  BANGER_WARM_AUTOMATIC: 'false',
};
const run = (...args: string[]) =>
  execFileSync(banger, args, { env, stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' });

mkdirSync(disk);
execFileSync('truncate', ['--size=8G', image]);
execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=1', image]);
execFileSync('mount', ['-o', 'loop', image, disk]);
try {
  // a clone shares blocks within one file system only
  execFileSync('cp', ['-a', '--sparse=always', bundle, join(disk, 'bundle')]);
  run('daemon', 'start', '--quiet');
  const commands: number[] = [];
  for (let made = 0; made < vms; made++) {
    const begun = performance.now();
    run('create', `vm${made}`, '--quiet');
    commands.push(performance.now() - begun);
  }
  const operations = (JSON.parse(run('operation', 'list', '--json')) as Operation[])
    .filter(({ kind }) => kind === 'vm.create')
    .map(({ createdAt, finishedAt }) => Date.parse(finishedAt ?? '') - Date.parse(createdAt));
  console.log(`${vms} VMs, load ${loadavg()[0]?.toFixed(1)}; medians and fastest`);
  console.log(`create, in the daemon  ${median(operations)} ms  ${Math.min(...operations)} ms`);
  console.log(`banger create          ${median(commands).toFixed(0)} ms  ${Math.min(...commands).toFixed(0)} ms`);
  if (median(operations) > LIMIT_MS) {
    console.log(`create takes more than ${LIMIT_MS} ms`);
    process.exitCode = 1;
  }
} finally {
  run('daemon', 'stop', '--quiet');
  execFileSync('umount', [disk]);
  rmSync(work, { recursive: true, force: true });
}

function median(samples: readonly number[]): number {
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)] ?? Number.NaN;
}
