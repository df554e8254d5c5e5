/**
 * Starts and ends QEMU. Console and QMP are socket pairs inherited as file descriptors: no path exists that
 * another process could connect to, and nothing has to be cleaned up.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import type { Duplex } from 'node:stream';
import { pathThroughThisProcess } from './orphans.ts';

/** Descriptors QEMU inherits; qemu/arguments.ts names them. */
export const CONSOLE_FD = 3;
export const QMP_FD = 4;
export const VSOCK_FD = 5;
export const ENTROPY_FD = 6;
export const MEMORY_FD = 7;
export const FIRST_TAP_FD = 8;

/** Descriptors of this process that QEMU inherits too. */
export interface InheritedFiles {
  /** becomes MEMORY_FD */
  memory?: number | undefined;
  /** become FIRST_TAP_FD and those behind it */
  taps: readonly number[];
}

export interface QemuEnd {
  /** `exited with status 1`, `was killed by SIGKILL` */
  how: string;
  /** last line QEMU wrote to standard error */
  lastLine: string | undefined;
}

export interface QemuProcess {
  pid: number;
  console: Duplex;
  qmp: Duplex;
  /** the port of an agent in the guest */
  vsock: Duplex;
  /** where QEMU asks for random bytes, when the entropy device is limited */
  entropy: Duplex;
  /** resolves when the process has ended, never rejects */
  ended: Promise<QemuEnd>;
  /** SIGKILL; the guest is cut off */
  kill(): void;
}

/** Standard error kept for the last line. */
const STDERR_TAIL_BYTES = 4096;

/**
 * Starts QEMU so that the kernel kills it when this process dies, however it dies.
 * @throws Error when the program cannot be started at all
 */
export async function startQemu(
  program: string,
  args: string[],
  env: NodeJS.ProcessEnv,
  onLine: (line: string) => void,
  { memory, taps }: InheritedFiles = { taps: [] },
): Promise<QemuProcess> {
  const path = pathThroughThisProcess(program, env);
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', path, ...args], {
    env,
    stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe', 'pipe', 'pipe', memory ?? 'ignore', ...taps],
  });
  const tail = collectStderr(child, onLine);
  const ended = new Promise<QemuEnd>((resolve) => {
    child.once('close', (code, signal) => {
      resolve({ how: describeEnd(code, signal), lastLine: tail() });
    });
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => reject(new Error(`setpriv could not be started: ${error.message}`)));
  });
  const [, , , console, qmp, vsock, entropy] = child.stdio as unknown as [null, null, ...Duplex[]] &
    Record<3 | 4 | 5 | 6, Duplex>;
  for (const stream of [console, vsock, entropy]) stream.on('error', () => {});
  return {
    pid: child.pid ?? 0,
    console,
    qmp,
    vsock,
    entropy,
    ended,
    kill: () => void child.kill('SIGKILL'),
  };
}

/** setpriv reports a program it cannot execute with status 126 or 127 and one line. */
function describeEnd(code: number | null, signal: NodeJS.Signals | null): string {
  return signal ? `was killed by ${signal} (${constants.signals[signal]})` : `exited with status ${code}`;
}

function collectStderr(child: ChildProcess, onLine: (line: string) => void): () => string | undefined {
  let partial = '';
  let last: string | undefined;
  const accept = (line: string) => {
    if (!line.trim()) return;
    last = line.trim();
    onLine(last);
  };
  child.stderr?.setEncoding('utf8');
  child.stderr?.on('data', (text: string) => {
    const lines = (partial + text).split(/\r?\n/);
    partial = (lines.pop() ?? '').slice(-STDERR_TAIL_BYTES);
    for (const line of lines) accept(line);
  });
  child.stderr?.on('end', () => accept(partial));
  return () => last;
}
