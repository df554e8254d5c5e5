/**
 * Cold start to the first SSH command and to the end of the boot: `banger start`, against Debian's debvm with the same
 * memory, processors and emulation, in turn in one run. Prints the medians and the ratios. For the login a command is run
 * by ssh; the boot is over when `systemctl is-system-running --wait` says so. Beside the seconds, the processor time of the
 * emulator is told, which depends less on what else the machine does.
 *
 *   node bench/boot.ts BUNDLE_DIRECTORY [ROUNDS]
 *
 * Needs root, dist/banger (make build), and debvm from Debian's packages (apt-get install debvm).
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join, resolve } from 'node:path';

const ROUNDS = Number(process.argv[3] ?? 3);
const bundle = resolve(process.argv[2] ?? '.dev/bundle');
const banger = join(import.meta.dirname, '../dist/banger');
const work = mkdtempSync('/tmp/banger-bench-');
const env = {
  ...process.env,
  BANGER_HOME: join(work, 'home'),
  BANGER_BUNDLE_DEFAULT: bundle,
  BANGER_WARM_AUTOMATIC: 'false',
};
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

interface Round {
  /** seconds to the first command over SSH */
  login: number;
  /** seconds to the end of the boot */
  ready: number;
  /** seconds of processor time the emulator had used by then */
  cpu: number;
}

/** Processor time of a process and all below it in seconds; the emulator is a child of what was started. */
function cpuSeconds(pid: number): number {
  const [, rest = ''] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(/\) (?=\w )/);
  const fields = rest.split(' ');
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  const own = (Number(fields[11]) + Number(fields[12])) / 100;
  return children.reduce((sum, child) => sum + cpuSeconds(child), own);
}

function bangerRound(): Round {
  const start = performance.now();
  run('start', VM, '--quiet', '--until', 'reachable');
  const access = spawnSync(banger, ['ssh', VM, '--', 'true'], { env });
  if (access.status !== 0) throw new Error(`banger ssh ended with ${access.status}: ${access.stderr}`);
  const login = seconds(start);
  run('wait', VM, '--for', 'ready', '--timeout', '4m');
  const ready = seconds(start);
  const { pid } = JSON.parse(run('show', VM, '--json'));
  const cpu = cpuSeconds(pid);
  const state = run('exec', '-n', VM, '--', 'sh', '-c', 'systemctl is-system-running || true').trim();
  if (state !== 'running') throw new Error(`the guest says "${state}" after it was ready`);
  run('stop', VM, '--quiet');
  return { login, ready, cpu };
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

async function debvmRound(): Promise<Round> {
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
    const login = seconds(start);
    while (!sshToDebvm('systemctl is-system-running --wait | grep -qE "running|degraded"')) {
      if (seconds(start) * 1000 > LIMIT_MS) throw new Error('debvm did not come to the end of its boot');
      await new Promise((wait) => setTimeout(wait, 500));
    }
    return { login, ready: seconds(start), cpu: vm.pid ? cpuSeconds(vm.pid) : Number.NaN };
  } finally {
    if (vm.pid) process.kill(-vm.pid, 'SIGKILL');
  }
}

function sshToDebvm(command = 'true'): boolean {
  const options = ['StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'BatchMode=yes', 'ConnectTimeout=20'];
  const flags = options.flatMap((option) => ['-o', option]);
  return (
    spawnSync('ssh', [...flags, '-i', key, '-p', DEBVM_PORT, 'root@127.0.0.1', command], { stdio: 'ignore' }).status ===
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
  const ours: Round[] = [];
  const theirs: Round[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    ours.push(bangerRound());
    theirs.push(await debvmRound());
    const said = [ours.at(-1), theirs.at(-1)].map(
      (each) =>
        `login ${each?.login.toFixed(1)} s, ready ${each?.ready.toFixed(1)} s (${each?.cpu.toFixed(1)} s of processor)`,
    );
    console.log(`round ${round + 1}: banger ${said[0]}; debvm ${said[1]}; load ${loadavg()[0]?.toFixed(1)}`);
  }
  for (const what of ['login', 'ready', 'cpu'] as const) {
    const [mine, other] = [ours, theirs].map((rounds) => median(rounds.map((round) => round[what])));
    const ratio = (mine ?? Number.NaN) / (other ?? Number.NaN);
    console.log(
      `median ${what}: banger ${mine?.toFixed(1)} s, debvm ${other?.toFixed(1)} s, ratio ${ratio.toFixed(2)}`,
    );
  }
} finally {
  spawnSync(banger, ['rm', '--force', '--now', VM], { env, stdio: 'ignore' });
  spawnSync(banger, ['daemon', 'stop'], { env, stdio: 'ignore' });
  rmSync(work, { recursive: true, force: true });
}
