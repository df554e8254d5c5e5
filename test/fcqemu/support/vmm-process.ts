/**
 * Runs the VMM under test as a real process: fcqemu as one bundled file, or the program FIRECRACKER_BIN names, so
 * that the same expectations can be checked against the original.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';
import { paced } from '../../support/pace.ts';
import { exchangeProblems } from './api-description.ts';

/** The real thing, when someone wants the suite run against it. */
export const firecrackerBin: string | undefined = process.env.FIRECRACKER_BIN || undefined;

/** One file without types: starting it takes a fifth of the time starting from source takes. */
const fcqemuEntry = join(mkdtempSync(join(tmpdir(), 'fcqemu-build-')), 'fcqemu.mjs');
buildSync({
  entryPoints: [fileURLToPath(new URL('../../../bin/fcqemu.ts', import.meta.url))],
  outfile: fcqemuEntry,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node26',
  sourcemap: 'inline',
});
process.once('exit', () => rmSync(join(fcqemuEntry, '..'), { recursive: true, force: true }));

/** Why tests that start a guest cannot run here; undefined when they can. */
export function guestSkipReason(): string | undefined {
  if (firecrackerBin) return existsSync('/dev/kvm') ? undefined : 'no /dev/kvm for the real firecracker';
  const probe = spawnSync(process.env.FCQEMU_QEMU ?? 'qemu-system-x86_64', ['--version']);
  return probe.error ? 'qemu-system-x86_64 is not installed' : undefined;
}

export interface VmmEnd {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface VmmOptions {
  args?: string[];
  env?: NodeJS.ProcessEnv;
  /** what standard input is; default nothing */
  stdin?: 'ignore' | 'pipe';
  /** program and arguments in front of the VMM's own, e.g. to enter a network namespace */
  prefix?: string[];
  /** leave the API socket out of the arguments; only with `--no-api`, or the default path would be used */
  withoutSocket?: boolean;
  /** the process ends by itself, so nobody waits for its socket */
  endsEarly?: boolean;
}

/** Runs the VMM to its end, for command lines that never serve. */
export async function runVmm(
  args: string[],
  env: NodeJS.ProcessEnv = {},
  { cwd, prefix = [] }: { cwd?: string; prefix?: string[] } = {},
): Promise<VmmEnd> {
  return await endOf(spawnVmm(args, { env, prefix }, cwd));
}

export interface Vmm {
  process: ChildProcess;
  /** directory of this VMM; also its working directory */
  dir: string;
  socket: string;
  logFile: string;
  /** resolves when the process has ended */
  ended: Promise<VmmEnd>;
  /** what the guest wrote to the console so far */
  output(): string;
  log(): string;
  call(method: string, path: string, body?: unknown): Promise<Answer>;
  /** Fails the test unless the answer is 204. */
  put(path: string, body: unknown): Promise<void>;
  patch(path: string, body: unknown): Promise<void>;
  get<T = Record<string, unknown>>(path: string): Promise<T>;
  /** The fault message of a request that must be refused. */
  fault(method: string, path: string, body?: unknown): Promise<string>;
  file(name: string, content: string | Buffer): Promise<string>;
}

export interface Answer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

/** Starts a VMM that is killed after the test, and waits for its socket. */
export async function startVmm(t: Pick<TestContext, 'after'>, options: VmmOptions = {}): Promise<Vmm> {
  const dir = await mkdtemp(join(tmpdir(), 'fcqemu-test-'));
  const socket = join(dir, 'api.sock');
  const logFile = join(dir, 'vmm.log');
  const base = options.withoutSocket ? [] : ['--api-sock', socket];
  const child = spawnVmm([...base, '--log-path', logFile, ...(options.args ?? [])], options, dir);
  const ended = endOf(child);
  t.after(async () => {
    child.kill('SIGKILL');
    await ended;
    await rm(dir, { recursive: true, force: true });
  });
  const vmm = new RunningVmm(child, dir, socket, logFile, ended);
  if (!options.withoutSocket && !options.endsEarly) await vmm.waitForSocket();
  return vmm;
}

function spawnVmm(args: string[], { prefix = [], env, stdin = 'ignore' }: VmmOptions, cwd?: string): ChildProcess {
  const vmm = firecrackerBin ? [firecrackerBin] : [process.execPath, fcqemuEntry];
  const [program = '', ...rest] = [...prefix, ...vmm, ...args];
  return spawn(program, rest, {
    cwd,
    env: { ...process.env, FCQEMU_ACCEL: process.env.FCQEMU_ACCEL ?? 'tcg', ...env },
    stdio: [stdin, 'pipe', 'pipe'],
  });
}

function endOf(child: ChildProcess): Promise<VmmEnd> {
  let stdout = '';
  let stderr = '';
  child.stdout?.on('data', (bytes: Buffer) => {
    stdout += bytes.toString('latin1');
  });
  child.stderr?.on('data', (bytes: Buffer) => {
    stderr += bytes.toString('utf8');
  });
  return new Promise((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

class RunningVmm implements Vmm {
  readonly process: ChildProcess;
  readonly dir: string;
  readonly socket: string;
  readonly logFile: string;
  readonly ended: Promise<VmmEnd>;
  #output = '';

  constructor(process: ChildProcess, dir: string, socket: string, logFile: string, ended: Promise<VmmEnd>) {
    this.process = process;
    this.dir = dir;
    this.socket = socket;
    this.logFile = logFile;
    this.ended = ended;
    process.stdout?.on('data', (bytes: Buffer) => {
      this.#output += bytes.toString('latin1');
    });
  }

  output(): string {
    return this.#output;
  }

  log(): string {
    return readFileSync(this.logFile, 'utf8');
  }

  async waitForSocket(): Promise<void> {
    await waitFor(() => existsSync(this.socket) && this.log().includes('API server started.'), 'the API socket');
  }

  async call(method: string, path: string, body?: unknown): Promise<Answer> {
    const text = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
    const length = text === undefined ? '' : `Content-Length: ${Buffer.byteLength(text)}\r\n`;
    const raw = await exchange(this.socket, `${method} ${path} HTTP/1.1\r\n${length}\r\n${text ?? ''}`);
    const answer = parseAnswer(raw);
    // a transport error is no JSON, deliberately
    if (answer.body.startsWith('{ "error"')) return answer;
    const problems = exchangeProblems({ method, path, body: text, status: answer.status, answer: answer.body });
    if (problems.length > 0) throw new Error(`against the API description: ${problems.join('; ')}`);
    return answer;
  }

  async put(path: string, body: unknown): Promise<void> {
    await this.#expectNoContent('PUT', path, body);
  }

  async patch(path: string, body: unknown): Promise<void> {
    await this.#expectNoContent('PATCH', path, body);
  }

  async #expectNoContent(method: string, path: string, body: unknown): Promise<void> {
    const answer = await this.call(method, path, body);
    if (answer.status !== 204) throw new Error(`${method} ${path} answered ${answer.status}: ${answer.body}`);
  }

  async get<T>(path: string): Promise<T> {
    const answer = await this.call('GET', path);
    if (answer.status !== 200) throw new Error(`GET ${path} answered ${answer.status}: ${answer.body}`);
    return JSON.parse(answer.body) as T;
  }

  async fault(method: string, path: string, body?: unknown): Promise<string> {
    const answer = await this.call(method, path, body);
    if (answer.status !== 400) throw new Error(`${method} ${path} answered ${answer.status}: ${answer.body}`);
    const content = JSON.parse(answer.body) as { fault_message: string };
    if (Object.keys(content).join() !== 'fault_message') throw new Error(`unexpected keys in ${answer.body}`);
    return content.fault_message;
  }

  async file(name: string, content: string | Buffer): Promise<string> {
    const path = join(this.dir, name);
    await writeFile(path, content);
    return path;
  }
}

/** Sends bytes on a fresh connection and returns the first complete answer. */
export async function exchange(socketPath: string, request: string | Buffer): Promise<string> {
  const socket = createConnection(socketPath);
  try {
    await once(socket, 'connect');
    socket.write(request);
    return await readAnswer(socket);
  } finally {
    socket.destroy();
  }
}

/** Reads one answer from an open connection. */
export async function readAnswer(socket: Socket): Promise<string> {
  let text = '';
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    text += (chunk as Buffer).toString('utf8');
    const end = text.indexOf('\r\n\r\n');
    if (end === -1) continue;
    const length = Number(/^content-length: (\d+)/im.exec(text.slice(0, end))?.[1] ?? 0);
    if (Buffer.byteLength(text.slice(end + 4)) >= length) return text;
  }
  return text;
}

export function parseAnswer(raw: string): Answer {
  const end = raw.indexOf('\r\n\r\n');
  const [statusLine = '', ...lines] = raw.slice(0, end).split('\r\n');
  const headers = Object.fromEntries(lines.map((line) => line.split(': ', 2) as [string, string]));
  return { status: Number(statusLine.split(' ')[1]), headers, body: raw.slice(end + 4) };
}

/** Polls until the condition holds; fails after `timeoutMs`, which the pace of this place makes longer. */
export async function waitFor(condition: () => boolean, what: string, timeoutMs = 10_000): Promise<void> {
  const limitMs = paced(timeoutMs);
  const deadline = Date.now() + limitMs;
  for (;;) {
    try {
      if (condition()) return;
    } catch {
      // not there yet
    }
    if (Date.now() > deadline) throw new Error(`waited ${limitMs} ms in vain for ${what}`);
    await delay(10);
  }
}
