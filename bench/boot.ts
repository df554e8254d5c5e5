/**
 * Cold start to the first SSH command: `banger start` and one `ssh`, against Debian's debvm with the same memory,
 * processors and emulation, in turn in one run. Prints the median of each and the ratio.
 *
 *   node bench/boot.ts BUNDLE_DIRECTORY [ROUNDS]
 *
 * Needs root, dist/banger (make build), and debvm from Debian's packages (apt-get install debvm).
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';

const ROUNDS = Number(process.argv[3] ?? 3);
const bundle = resolve(process.argv[2] ?? '.dev/bundle');
const banger = join(import.meta.dirname, '../dist/banger');
const work = mkdtempSync('/tmp/banger-bench-');
const env = { ...process.env, BANGER_HOME: join(work, 'home'), BANGER_BUNDLE_DEFAULT: bundle };
const VM = 'bench';
const MEMORY_MIB = 512;
const DEBVM_PORT = '2299';
/** Ten times what a boot takes here; only a hang reaches it. */
const LIMIT_MS = 240_000;

const run = (...args: string[]) =>
  execFileSync(banger, args, { env, stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' });

function seconds(since: number): number {
  return (performance.now() - since) / 1000;
}

function bangerRound(): number {
  const start = performance.now();
  run('start', VM, '--quiet');
  const access = spawnSync(banger, ['ssh', VM, '--', 'true'], { env });
  if (access.status !== 0) throw new Error(`banger ssh ended with ${access.status}: ${access.stderr}`);
  const took = seconds(start);
  run('stop', VM, '--quiet');
  return took;
}

const key = join(work, 'id');
const image = join(work, 'debvm.ext4');

function createDebvmImage(): void {
  execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
  const sources = ['/etc/apt/sources.list.d/debian.sources', '/etc/apt/sources.list'].find(existsSync);
  execFileSync(
    'debvm-create',
    ['-r', 'bookworm', '-k', `${key}.pub`, '-o', image, '--', ...(sources ? [sources] : [])],
    {
      stdio: 'ignore',
    },
  );
}

async function debvmRound(): Promise<number> {
  const start = performance.now();
  // accel and cpu come after debvm's own and win: /dev/kvm may open although no guest runs under it
  const args = ['-i', image, '-s', DEBVM_PORT, '--', '-m', String(MEMORY_MIB), '-smp', '1', '-cpu', 'qemu64'];
  let ended = false;
  const vm: ChildProcess = spawn('debvm-run', [...args, '-machine', 'accel=tcg'], { stdio: 'ignore', detached: true });
  vm.once('exit', () => {
    ended = true;
  });
  try {
    while (!sshToDebvm()) {
      if (ended) throw new Error('debvm-run ended before its guest answered');
      if (seconds(start) * 1000 > LIMIT_MS) throw new Error('debvm did not answer SSH');
      await new Promise((wait) => setTimeout(wait, 50));
    }
    return seconds(start);
  } finally {
    if (vm.pid) process.kill(-vm.pid, 'SIGKILL');
  }
}

function sshToDebvm(): boolean {
  const options = ['StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'BatchMode=yes', 'ConnectTimeout=20'];
  const flags = options.flatMap((option) => ['-o', option]);
  return (
    spawnSync('ssh', [...flags, '-i', key, '-p', DEBVM_PORT, 'root@127.0.0.1', 'true'], { stdio: 'ignore' }).status ===
    0
  );
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

try {
  mkdirSync(env.BANGER_HOME, { recursive: true });
  createDebvmImage();
  run('create', VM, '--vcpus', '1', '--memory', `${MEMORY_MIB}M`, '--quiet');
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    ours.push(bangerRound());
    theirs.push(await debvmRound());
    console.log(`round ${round + 1}: banger ${ours.at(-1)?.toFixed(1)} s, debvm ${theirs.at(-1)?.toFixed(1)} s`);
  }
  const ratio = median(ours) / median(theirs);
  console.log(
    `median: banger ${median(ours).toFixed(1)} s, debvm ${median(theirs).toFixed(1)} s, ratio ${ratio.toFixed(2)}`,
  );
} finally {
  spawnSync(banger, ['rm', '--force', '--now', VM], { env, stdio: 'ignore' });
  spawnSync(banger, ['daemon', 'stop'], { env, stdio: 'ignore' });
  rmSync(work, { recursive: true, force: true });
}
