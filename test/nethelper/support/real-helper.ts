/**
 * The network helper as systemd would start it, in the network of this process: with a socket that is listening, and with
 * the right to change the network and no other. Root's process connects as any user: the kernel notes who that is then.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, closeSync, rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { createHelperPort } from '../../../src/network/helper-client.ts';
import type { Scope } from '../../../src/network/helper-protocol.ts';
import type { NetworkPort } from '../../../src/network/port.ts';
import { loadLibc } from '../../../src/system/libc.ts';

/** A group that no user of this host is in. */
const GROUP = 28_100;

const PROGRAM = [process.execPath, join(import.meta.dirname, '../../../bin/bangernet.ts')];

const RIGHTS = ['--inh-caps=-all,+net_admin', '--bounding-set=-all,+net_admin', '--no-new-privs'];

export class RealHelper {
  readonly socket: string;
  readonly journal: string;
  readonly log: string[] = [];
  readonly #listening: number;
  readonly #argv: readonly string[];
  #group = GROUP;
  #process: ChildProcess | undefined;

  private constructor(directory: string, listening: number, argv: readonly string[]) {
    this.socket = join(directory, 'net.sock');
    this.journal = join(directory, 'journal');
    this.#listening = listening;
    this.#argv = argv;
  }

  /** @param program program and arguments; the sources with few VMs a user without */
  static async start(argv: readonly string[] = [...PROGRAM, '--vms', '4'], group = GROUP): Promise<RealHelper> {
    const directory = await mkdtemp(join(tmpdir(), 'bn-'));
    chmodSync(directory, 0o755);
    const helper = new RealHelper(directory, await listenAt(join(directory, 'net.sock')), argv);
    helper.#group = group;
    chownSync(helper.socket, 0, group);
    chmodSync(helper.socket, 0o660);
    await helper.run();
    return helper;
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** Starts it, anew after it was killed. */
  async run(): Promise<void> {
    const script = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec setpriv "$@"';
    const argv = ['-c', script, 'sh', ...RIGHTS, '--', ...this.#argv, '--journal', this.journal];
    const child = spawn('sh', argv, {
      stdio: ['ignore', 'ignore', 'pipe', this.#listening],
      env: { PATH: process.env.PATH },
    });
    this.#process = child;
    const ready = Promise.withResolvers<void>();
    createInterface({ input: child.stderr as NonNullable<typeof child.stderr> }).on('line', (line) => {
      this.log.push(line);
      if (line.endsWith('is ready')) ready.resolve();
    });
    child.once('exit', () => ready.reject(new Error(`the helper ended: ${this.log.join('\n')}`)));
    await ready.promise;
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  }

  /** What a daemon of this user would change the network by. */
  portOf(uid: number, scope: Scope): NetworkPort {
    const port = createHelperPort(this.socket, scope);
    return new Proxy(port, {
      get:
        (target, name: keyof NetworkPort) =>
        async (...args: unknown[]) => {
          // it connects at once only by what is known
          const known = await Promise.all(args);
          const call = target[name] as (...given: unknown[]) => Promise<unknown>;
          return await connectAs(uid, () => call(...known), [this.#group]);
        },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill('SIGTERM');
    closeSync(this.#listening);
    rmSync(join(this.socket, '..'), { recursive: true, force: true });
  }
}

/** A socket that is listened on and that this process itself takes no connections from. */
async function listenAt(path: string): Promise<number> {
  const c = await loadLibc({
    socket: { arguments: ['int32', 'int32', 'int32'], return: 'int32' },
    bind: { arguments: ['int32', 'buffer', 'uint32'], return: 'int32' },
    listen: { arguments: ['int32', 'int32'], return: 'int32' },
  });
  const [unix, stream] = [1, 1];
  const fd = c?.socket(unix, stream, 0) ?? -1;
  const address = Buffer.from(`\x01\0${path}\0`);
  if (c?.bind(fd, address, address.length) !== 0 || c.listen(fd, 128) !== 0) throw new Error(`no socket at ${path}`);
  return fd;
}

/** Runs what connects at once as a user of this number, who is in the group or not. */
export function connectAs<T>(uid: number, connect: () => T, groups: number[] = [GROUP]): T {
  const before = process.getgroups?.() ?? [];
  process.setgroups?.(groups);
  process.setegid?.(uid);
  process.seteuid?.(uid);
  try {
    return connect();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
    process.setgroups?.(before);
  }
}
