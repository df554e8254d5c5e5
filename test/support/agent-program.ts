/**
 * The guest's agent itself, compiled for tests with the compiler's own checks of memory and arithmetic, as a process of this
 * machine: it listens on a Unix socket instead of vsock, or speaks fcqemu's frames over one.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { join as joinStreams } from '../../fcqemu/vmm/vsock/multiplexer.ts';
import { Vsock } from '../../fcqemu/vmm/vsock/vsock.ts';
import { connectAgent, type GuestAgent } from '../../src/guest/agent/agent.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { paced } from './pace.ts';

const SOURCES = join(import.meta.dirname, '../../agent');

/** Why it cannot be compiled here; false when it can. */
export const agentSkip = lacking('gcc');

/** Where it is kept between runs, by what it is made of. */
const KEPT = join(import.meta.dirname, '../../.dev');

const FLAGS = [
  ...['-std=c11', '-D_GNU_SOURCE', '-DFOR_TESTS', '-O1', '-g', '-Wall', '-Wextra', '-Werror'],
  ...['-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer'],
  // what it keeps for itself, and control groups, are in the directory it works in
  ...[
    '-DVERSION="9.9.9"',
    '-DRUN_DIRECTORY="run"',
    '-DGROUPS="groups"',
    '-DVAR="var"',
    '-DHIDDEN="run/hidden"',
    '-DROOT_HOME="root"',
    '-DCONSOLE="run/console"',
  ],
  ...['-DBASH_FOR_ALL="bash.bashrc"', '-DBASH_FOR_ONE="/.bashrc-of-tests"'],
];

/**
 * Compiles it unless that was done before.
 * @param defines further words of the preprocessor, e.g. `THAW_AFTER_MS=1200`
 * @returns path of the program
 */
export async function compileAgent(defines: readonly string[] = []): Promise<string> {
  const names = (await readdir(SOURCES)).sort();
  const flags = [...FLAGS, ...defines.map((word) => `-D${word}`)];
  const digest = createHash('sha256').update(JSON.stringify(flags));
  for (const name of names) digest.update(await readFile(join(SOURCES, name)));
  const program = join(KEPT, `agent-${digest.digest('hex').slice(0, 16)}`);
  if (existsSync(program)) return program;
  await mkdir(KEPT, { recursive: true });
  const work = await mkdtemp(join(KEPT, '.agent-'));
  try {
    const sources = names.filter((name) => name.endsWith('.c')).map((name) => join(SOURCES, name));
    await promisify(execFile)('gcc', [...flags, '-o', join(work, 'agent'), ...sources]);
    await rename(join(work, 'agent'), program);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return program;
}

export interface RunningAgent {
  /** where it works: `run` is its /run/banger, `groups` has control groups */
  directory: string;
  /** to connect to as to a VMM's vsock */
  socket: string;
  process: ChildProcess;
  /** what it said on its way down */
  said(): string;
  /** how a machine is told that it goes on from memory; over fcqemu's port only */
  restored(): void;
  connect(): Promise<GuestAgent>;
}

/** Runs it behind fcqemu's own vsock, as in a guest of fcqemu. */
export async function runOverPort(t: TestContext, program: string): Promise<RunningAgent> {
  const directory = await workDirectory();
  const port = join(directory, 'port');
  const vsock = new Vsock();
  await vsock.put({ guest_cid: 3, uds_path: join(directory, 'v.sock') });
  const server = createServer((socket) => {
    socket.on('error', () => {});
    vsock.attach(socket);
  }).listen(port);
  await once(server, 'listening');
  const running = follow(t, begin(program, ['--port', port], directory), directory);
  t.after(() => server.close());
  return { ...running, restored: () => vsock.announceRestore() };
}

/** Runs it behind something that connects as Firecracker does. */
export async function runOverSocket(t: TestContext, program: string): Promise<RunningAgent> {
  const directory = await workDirectory();
  return await behindSocket(t, begin(program, ['--listen', 'agent.sock'], directory), directory);
}

/** What connects to `agent.sock` in the directory as Firecracker would. */
export async function behindSocket(t: TestContext, child: ChildProcess, directory: string): Promise<RunningAgent> {
  const inner = join(directory, 'agent.sock');
  const running = follow(t, child, directory);
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => {
      const guest = createConnection(inner);
      guest.on('error', () => socket.destroy());
      guest.once('connect', () => {
        socket.write('OK 1073741824\n');
        joinStreams(guest, socket);
      });
    });
  }).listen(running.socket);
  await once(server, 'listening');
  t.after(() => server.close());
  for (let waited = 0; !existsSync(inner) && waited < paced(10_000); waited += 20) await delay(20);
  return running;
}

/** Removed by whoever follows the program in it, once that has ended: it may make files until then. */
export async function workDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'banger-test-'));
  await mkdir(join(directory, 'run'));
  return directory;
}

function begin(program: string, argv: string[], directory: string): ChildProcess {
  // leaks are looked for when a process ends, and this one does not
  const env = { ...process.env, ASAN_OPTIONS: 'detect_leaks=0' };
  return spawn(program, argv, { env, cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] });
}

function follow(t: TestContext, child: ChildProcess, directory: string): RunningAgent {
  const socket = join(directory, 'v.sock');
  let said = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  const agents: GuestAgent[] = [];
  t.after(async () => {
    for (const agent of agents) await agent[Symbol.asyncDispose]();
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    // what it had started, in namespaces of its own too, ends with it, but not at once
    await rm(directory, { recursive: true, force: true, maxRetries: 10 });
    if (/Sanitizer|runtime error/.test(said)) throw new Error(said);
  });
  return {
    directory,
    socket,
    process: child,
    said: () => said,
    restored: () => {},
    async connect() {
      const deadline = performance.now() + paced(10_000);
      for (;;) {
        try {
          const agent = await connectAgent(socket, { timeoutMs: paced(5000) });
          agents.push(agent);
          return agent;
        } catch (error) {
          // it greets fcqemu some milliseconds after it was started
          if (performance.now() > deadline || child.exitCode !== null)
            throw new Error(`it said: ${said}`, { cause: error });
          await delay(20);
        }
      }
    },
  };
}
