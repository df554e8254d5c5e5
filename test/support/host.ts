/**
 * A banger of its own for host tests: the built executable with a private home, real VMs, and a host on which
 * nothing of it may be left afterwards.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, realpathSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OperationEvent } from '../../src/api/operation.ts';
import type { DaemonStatus } from '../../src/api/system.ts';
import type { Vm, VmDetail } from '../../src/api/vm.ts';
import { type Client, createClient } from '../../src/client/client.ts';
import { followOperation } from '../../src/client/follow-operation.ts';
import { createRunner } from '../../src/system/runner.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { freePort } from './free-port.ts';
import { leanBundle } from './lean-bundle.ts';
import {
  endProcesses,
  forwardingOf,
  leftoversOf,
  type Marks,
  othersRun,
  processesOf,
  removeByForce,
} from './leftovers.ts';
import { pace, paced } from './pace.ts';
import { bringWarmStart } from './warm-start.ts';

const BANGER = join(import.meta.dirname, '../../dist/banger');
/** What tests make once and keep. */
export const DEV = join(import.meta.dirname, '../../.dev');
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const runner = createRunner({ ...process.env, PATH });

/** An emulated boot takes 5 to 15 s; three at once on a busy host take longer. */
const COMMAND_LIMIT_MS = 120_000;

/** Why the daemon cannot be tested here; false when it can. */
export function daemonSkip(): string | false {
  return !existsSync(BANGER) && 'dist/banger is not built (make build)';
}

/** Why VMs cannot be tested here; false when they can. */
export function hostSkip(...programs: string[]): string | false {
  if (!process.env.BANGER_TEST_BUNDLE) return 'BANGER_TEST_BUNDLE names no bundle (make host-test builds one)';
  if (!existsSync(join(process.env.BANGER_TEST_BUNDLE, 'bundle.json'))) return 'BANGER_TEST_BUNDLE holds no bundle';
  if (daemonSkip() !== false) return daemonSkip();
  if (process.getuid?.() !== 0) return 'taps and firewall rules need root';
  if (!existsSync('/dev/net/tun')) return 'there is no /dev/net/tun';
  return lacking('qemu-system-x86_64', 'ip', 'nft', 'mke2fs', 'e2fsck', 'resize2fs', 'ssh', 'scp', ...programs);
}

export interface Ran {
  status: number | null;
  /** bytes of standard output */
  output: Buffer;
  stdout: string;
  stderr: string;
}

/** Standard output of a command that must have succeeded, without the last line break. */
export function outputOf({ status, stdout, stderr }: Ran, args: readonly string[]): string {
  assert.equal(status, 0, `banger ${args.join(' ')} ended with ${status}:\n${stderr}${stdout}`);
  return stdout.replace(/\n$/, '');
}

export interface RunOptions {
  input?: Buffer | string;
  env?: Record<string, string>;
  /** where the place is slow it gets longer */
  timeoutMs?: number;
}

/** A command that still runs. */
export interface Running {
  child: ChildProcess;
  ended: Promise<Ran>;
  /** text of standard output and error so far */
  said(): string;
  /** waits until it has said this; fails when it ends without */
  says(pattern: RegExp): Promise<void>;
}

export interface TestHostOptions {
  env?: Record<string, string>;
  /** beginning of the home's path; short, because a socket's path has 107 bytes at most */
  prefix?: string;
  /** its VMs boot what test/support/lean-bundle.ts makes, in half the time; needs debugfs */
  lean?: boolean;
  /** VMs of the lean bundle's usual size begin as its template, where that has been made, and not by a boot */
  warm?: boolean;
  /** device whose forwarding must be put back in the end; that of the default route unless told otherwise */
  uplink?: string;
}

export class TestHost {
  readonly home: string;
  readonly bundle: string;
  readonly env: NodeJS.ProcessEnv;
  readonly client: Client;
  /** nftables table of this banger */
  readonly table: string;
  readonly #marks: Marks;
  readonly #beforeLastLook: (() => Promise<void>)[] = [];

  private constructor(
    home: string,
    bundle: string,
    uplink: string | undefined,
    forwarding: string | undefined,
    env: Record<string, string>,
  ) {
    this.home = home;
    this.bundle = bundle;
    this.table = `banger_${createHash('sha256').update(realpathSync(home)).digest('hex').slice(0, 8)}`;
    this.#marks = { uplink, forwarding, vmIds: new Set(), pool: undefined };
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('BANGER_'));
    this.env = {
      ...Object.fromEntries(inherited),
      PATH,
      BANGER_HOME: home,
      BANGER_BUNDLE_DEFAULT: this.bundle,
      ...slowGuests(),
      // a VM that nobody asked for would take a processor of every test
      BANGER_WARM_AUTOMATIC: 'false',
      ...env,
    };
    this.client = createClient({ socketPath: this.socket });
  }

  static async create(options: TestHostOptions = {}): Promise<TestHost> {
    const home = await mkdtemp(options.prefix ?? '/tmp/bt-');
    const uplink = options.uplink ?? (await defaultDevice());
    await bringVerdict(join(home, 'cache'));
    const uplinkEnv: Record<string, string> = options.uplink ? { BANGER_NETWORK_UPLINK: options.uplink } : {};
    // others of this machine, and of tests that run side by side, have ports of their own
    const env = { BANGER_DNS_PORT: String(await freePort()), ...options.env, ...uplinkEnv };
    const full = process.env.BANGER_TEST_BUNDLE ?? '';
    const bundle = options.lean ? await leanBundle(full, DEV) : full;
    if (options.warm) await bringWarmStart(home, bundle, DEV);
    return new TestHost(home, bundle, uplink, (await othersRun()) ? undefined : await forwardingOf(uplink), env);
  }

  get socket(): string {
    return join(this.home, 'run/bangerd.sock');
  }

  /** Begins a command. */
  begin(args: readonly string[], options: RunOptions = {}): Running {
    const child = spawn(BANGER, args, { env: { ...this.env, ...options.env }, stdio: ['pipe', 'pipe', 'pipe'] });
    return watchChild(child, `banger ${args.join(' ')}`, options);
  }

  /** Runs a command to its end, whatever that is. */
  async run(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    return await this.begin(args, options).ended;
  }

  /** Runs a command that must succeed; returns its standard output without the last line break. */
  async ok(...args: string[]): Promise<string> {
    return outputOf(await this.run(args), args);
  }

  /** Runs a command in a guest that must succeed; returns its standard output without the last line break. */
  async guest(name: string, script: string): Promise<string> {
    return await this.ok('exec', '-n', name, '--', 'sh', '-c', script);
  }

  /** Waits until what a guest leaves for after its boot is done, too. */
  async settled(name: string): Promise<void> {
    await this.guest(
      name,
      'for i in $(seq 90); do systemctl is-active -q banger-rest.target && systemctl list-jobs | grep -q "No jobs" && exit; sleep 1; done; exit 1',
    );
  }

  /**
   * Runs a command that must fail with this exit status and say all of this; returns what it said.
   * Nothing may look like a bug to the person who reads it.
   */
  async fails(
    status: number,
    args: readonly string[],
    says: readonly RegExp[],
    options: RunOptions = {},
  ): Promise<Ran> {
    const ran = await this.run(args, options);
    const told = `banger ${args.join(' ')} ended with ${ran.status} and said:\n${ran.stderr}${ran.stdout}`;
    assert.equal(ran.status, status, told);
    for (const part of says) assert.match(ran.stderr, part, told);
    assert.doesNotMatch(ran.stderr, /\n\s+at |undefined|\[object|TypeError|ECONN|ENOENT/, told);
    return ran;
  }

  /** Lets a guest do something in a moment, after this has returned: what takes it down, usually. */
  async soon(name: string, script: string): Promise<void> {
    await this.guest(name, `(sleep 1; ${script}) > /dev/null 2>&1 &`);
  }

  async vm(name: string): Promise<VmDetail> {
    const vm = await this.client.call('showVm', { params: { name } });
    this.#marks.vmIds.add(vm.id);
    return vm;
  }

  async vms(): Promise<Vm[]> {
    const vms = await this.client.call('listVms', {});
    for (const { id } of vms) this.#marks.vmIds.add(id);
    return vms;
  }

  /** What its daemons have logged. */
  async log(): Promise<string> {
    return await readFile(join(this.home, 'state/bangerd.log'), 'utf8');
  }

  /** Starts the daemon unless one runs. */
  async daemon(): Promise<DaemonStatus> {
    await this.ok('daemon', 'start');
    const status = await this.client.call('status', {});
    this.#marks.pool = status.pool;
    return status;
  }

  /** Ends the daemon as a crash would. */
  async killDaemon(): Promise<void> {
    const { pid } = await this.client.call('status', {});
    process.kill(pid, 'SIGKILL');
    await until('the daemon is gone', () => !existsSync(`/proc/${pid}`));
  }

  /** Follows an operation and calls back at every event; resolves with the last one, or none when the daemon died. */
  async follow(id: string, onEvent: (event: OperationEvent) => void): Promise<unknown> {
    return await followOperation(this.client, id, onEvent).catch(() => undefined);
  }

  /** Fails when anything on this host belongs to this banger but its daemon and the disks of its VMs. */
  async assertQuiet(when = ''): Promise<void> {
    assert.deepEqual(await this.leftovers({ daemonRuns: true }), [], `something is left ${when}`);
  }

  /** What there is on the host because of this banger, in words. */
  async leftovers({ daemonRuns }: { daemonRuns: boolean }): Promise<string[]> {
    return await leftoversOf(this, this.#marks, daemonRuns);
  }

  /** Processes that work for this banger: by their environment, or by a path of its home in their arguments. */
  async processes(): Promise<{ pid: number; command: string }[]> {
    return await processesOf(this.home);
  }

  /** Has something of the test's own removed after the daemon has ended and before the host is looked at. */
  beforeLastLook(remove: () => Promise<void>): void {
    this.#beforeLastLook.push(remove);
  }

  /** Deletes every VM, stops the daemon, and fails when that leaves anything; what it left is then removed by force. */
  async [Symbol.asyncDispose](): Promise<void> {
    let left: string[];
    try {
      const names = (await this.run(['ls', '--names'])).stdout.split('\n').filter(Boolean);
      if (names.length > 0) await this.run(['rm', '--force', '--now', ...names]);
      await this.run(['trash', 'empty']);
      await this.run(['daemon', 'stop']);
      for (const remove of this.#beforeLastLook.splice(0)) await remove();
      left = await this.leftovers({ daemonRuns: false });
    } finally {
      await this.#endByForce();
    }
    assert.deepEqual(left, [], 'the host is not as it was');
  }

  async #endByForce(): Promise<void> {
    await endProcesses(this.home);
    for (const remove of this.#beforeLastLook.splice(0)) await remove().catch(() => {});
    await removeByForce(this, this.#marks);
  }
}

/** Ends a process as a crash would; fails when there is none (signals to process 0 hit the tests themselves). */
export function crash(pid: number | null | undefined): void {
  assert.ok(pid, 'there is no such process');
  process.kill(pid, 'SIGKILL');
}

/** Waits until `holds` is true; fails after `limitMs`, longer where the place is slow, with what was waited for. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  limitMs = COMMAND_LIMIT_MS,
): Promise<void> {
  const scaledMs = paced(limitMs);
  const deadline = performance.now() + scaledMs;
  for (let began = performance.now(); !(await holds()); began = performance.now()) {
    assert.ok(performance.now() < deadline, `not within ${scaledMs / 1000} s: ${what}`);
    // where a look costs much, it must not take the processor from what is waited for
    await sleep(Math.max(20, (pace() - 1) * (performance.now() - began)));
  }
}

/** Watches a program from outside: everything it says, and how it ends; ended by force at its limit. */
export function watchChild(child: ChildProcess, name: string, options: RunOptions = {}): Running {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => stderr.push(chunk));
  child.stdin?.on('error', () => {}); // a command that ends before it has read its input
  child.stdin?.end(options.input ?? '');
  const limitMs = paced(options.timeoutMs ?? COMMAND_LIMIT_MS);
  const { promise, resolve, reject } = Promise.withResolvers<Ran>();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, limitMs);
  const said = () => Buffer.concat([...stdout, ...stderr]).toString('utf8');
  child.once('error', reject);
  child.once('close', (status) => {
    clearTimeout(timer);
    if (late)
      reject(new assert.AssertionError({ message: `${name} did not end within ${limitMs / 1000} s:\n${said()}` }));
    const output = Buffer.concat(stdout);
    resolve({
      status,
      output,
      stdout: output.toString('utf8'),
      stderr: Buffer.concat(stderr).toString('utf8'),
    });
  });
  const says = (pattern: RegExp) =>
    until(`${name} says ${pattern}`, () => {
      if (pattern.test(said())) return true;
      assert.equal(child.exitCode ?? child.signalCode, null, `${name} ended before it said ${pattern}:\n${said()}`);
      return false;
    });
  return { child, ended: promise, said, says };
}

/**
 * Gives a new banger what is known of KVM here: `BANGER_TEST_VERDICT` names the file of another one. Without it every new one
 * tests for itself, and where that takes long its first guests are emulated.
 */
export async function bringVerdict(cacheDirectory: string): Promise<void> {
  const verdict = process.env.BANGER_TEST_VERDICT;
  if (verdict === undefined) return;
  await mkdir(cacheDirectory, { recursive: true, mode: 0o700 });
  await copyFile(verdict, join(cacheDirectory, basename(verdict)));
}

/** What a person would set where guests take longer than banger expects. */
export function slowGuests(): Record<string, string> {
  if (pace() === 1) return {};
  const seconds = { BOOT: 180, READY: 300, STOP: 90 };
  return Object.fromEntries(
    Object.entries(seconds).map(([what, limit]) => [`BANGER_LIMITS_${what}_TIMEOUT`, `${paced(limit)}s`]),
  );
}

async function defaultDevice(): Promise<string | undefined> {
  const { stdout } = await runner.run(['ip', '-j', '-4', 'route', 'show', 'default']);
  const [route] = JSON.parse(stdout || '[]') as { dev?: string }[];
  return route?.dev;
}
