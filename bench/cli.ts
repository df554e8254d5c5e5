/**
 * How long commands take to start, as a multiple of `node -e 0` of the same Node, measured in turns.
 * Needs `dist/banger`; starts a daemon of its own. Exits with 1 when `banger ls` takes more than 2.2 times.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';

const LIMIT = 2.2;
const ROUNDS = Number(process.argv[2] ?? 30);
const BANGER = join(import.meta.dirname, '../dist/banger');

const home = mkdtempSync(join(tmpdir(), 'banger-bench-'));
const env = { ...process.env, BANGER_HOME: home };
const rivals: Record<string, [string, ...string[]]> = {
  'node -e 0': [process.execPath, '-e', '0'],
  'banger --version': [BANGER, '--version'],
  'banger ls': [BANGER, 'ls'],
  'banger ls --json': [BANGER, 'ls', '--json'],
  'banger start --help': [BANGER, 'start', '--help'],
};

try {
  execFileSync(BANGER, ['daemon', 'start', '--quiet'], { env });
  const times = new Map(Object.keys(rivals).map((name) => [name, [] as number[]]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, argv] of Object.entries(rivals)) times.get(name)?.push(timeOf(argv));
  }
  report(times);
} finally {
  execFileSync(BANGER, ['daemon', 'stop', '--quiet'], { env });
  rmSync(home, { recursive: true, force: true });
}

function timeOf([program, ...args]: [string, ...string[]]): number {
  const begun = performance.now();
  const { status } = spawnSync(program, args, { env, stdio: 'ignore' });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${status}`);
  return performance.now() - begun;
}

function report(times: Map<string, number[]>): void {
  const load = loadavg()[0]?.toFixed(1);
  console.log(`${ROUNDS} rounds, ${availableParallelism()} CPUs, load ${load}; medians and fastest`);
  const base = median(times.get('node -e 0'));
  for (const [name, samples] of times) {
    const [middle, least] = [median(samples), Math.min(...samples)];
    const ratio = middle / base;
    console.log(`${name.padEnd(20)} ${middle.toFixed(1)} ms  ${least.toFixed(1)} ms  ${ratio.toFixed(2)} x`);
    if (name === 'banger ls' && ratio > LIMIT) {
      console.log(`banger ls takes more than ${LIMIT} x`);
      process.exitCode = 1;
    }
  }
}

function median(samples: readonly number[] = []): number {
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)] ?? Number.NaN;
}
