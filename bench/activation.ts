/**
 * What the first command costs: `banger ls` where systemd holds the daemon's socket, against `banger daemon start && banger ls`, turn
 * about, and `banger ls` of a daemon that runs. Needs `dist/banger` and systemd-socket-activate, no root and no systemd.
 * Exits with 1 when the first takes more than 2.5 times the second. Usage: node bench/activation.ts [ROUNDS]
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';

const LIMIT = 2.5;
const ROUNDS = Number(process.argv[2] ?? 20);
const BANGER = join(import.meta.dirname, '../dist/banger');

const home = mkdtempSync(join(tmpdir(), 'ba-'));
const run = join(home, 'run');
const socket = join(run, 'bangerd.sock');
const env = { ...process.env, BANGER_HOME: home };

/** Does what the unit of the socket does: listens, leaves the mark, and becomes the daemon at the first connection. */
async function listen(): Promise<void> {
  mkdirSync(run, { recursive: true, mode: 0o700 });
  symlinkSync('bangerd.sock', join(run, 'bangerd.activated'));
  const argv = ['-l', socket, '-E', `BANGER_HOME=${home}`, BANGER, 'daemon', 'run'];
  const child = spawn('systemd-socket-activate', argv, { env, stdio: ['ignore', 'ignore', 'pipe'] });
  await once(child.stderr, 'data');
  child.stderr.resume();
}

function timeOf(...commands: string[][]): number {
  const begun = performance.now();
  for (const args of commands) execFileSync(BANGER, args, { env, stdio: 'ignore' });
  return performance.now() - begun;
}

function stop(): void {
  execFileSync(BANGER, ['daemon', 'stop', '--quiet'], { env, stdio: 'ignore' });
  rmSync(run, { recursive: true, force: true });
}

const median = (samples: number[]) => samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)] ?? Number.NaN;

const times = { activated: [] as number[], started: [] as number[], warm: [] as number[] };
try {
  // the first one makes the database
  timeOf(['daemon', 'start']);
  stop();
  for (let round = 0; round < ROUNDS; round++) {
    await listen();
    times.activated.push(timeOf(['ls']));
    times.warm.push(timeOf(['ls']));
    stop();
    times.started.push(timeOf(['daemon', 'start'], ['ls']));
    stop();
  }
  const [activated, started, warm] = [times.activated, times.started, times.warm].map(median);
  console.log(`${ROUNDS} rounds, ${availableParallelism()} CPUs, load ${loadavg()[0]?.toFixed(1)}; medians`);
  console.log(`first banger ls by the socket     ${activated?.toFixed(0)} ms`);
  console.log(`banger daemon start && banger ls  ${started?.toFixed(0)} ms`);
  console.log(`banger ls, the daemon runs        ${warm?.toFixed(0)} ms`);
  const ratio = (activated ?? 0) / (started ?? 1);
  console.log(`first / started: ${ratio.toFixed(2)}`);
  if (ratio > LIMIT) process.exitCode = 1;
} finally {
  rmSync(home, { recursive: true, force: true });
}
