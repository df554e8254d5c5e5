/**
 * A banger in the rig that is commanded from outside: its daemon, VMMs and guests run there, and nothing else does. Commands
 * and tests are not emulated; they reach the daemon by its socket, which ssh forwards.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BANGER } from '../../scripts/transcript.ts';
import type { VmDetail } from '../../src/api/vm.ts';
import { type Client, createClient } from '../../src/client/client.ts';
import { followOperation } from '../../src/client/follow-operation.ts';
import { outputOf, type Ran, type RunOptions, until, watchChild } from '../support/host.ts';
import { paced } from '../support/pace.ts';
import type { ProofVmm } from './outcome.ts';
import { INSIDE, type Rig } from './rig.ts';

const SHELL_LIMIT_MS = paced(120_000);
/** Guests and disks are emulated; the machine's own pace says nothing about them. */
const COMMAND_LIMIT_MS = 400_000;
const LOOK_MS = 1000;
const GUEST_LIMITS = ['BANGER_LIMITS_BOOT_TIMEOUT=900s', 'BANGER_LIMITS_STOP_TIMEOUT=300s'];

/** A user of the rig who is not root. */
export interface RigUser {
  name: string;
  /** what the daemon is started by */
  as: string;
}

export class RigBanger {
  readonly rig: Rig;
  /** of the daemon, in the rig */
  readonly home: string;
  readonly client: Client;
  readonly #vmm: ProofVmm;
  readonly #user: RigUser | undefined;
  /** `BANGER_HOME` of commands: nothing is there but the socket */
  readonly #outside: string;
  readonly #forward: Disposable;
  /** of the daemon, in the rig */
  #pid = '';

  private constructor(
    rig: Rig,
    home: string,
    vmm: ProofVmm,
    user: RigUser | undefined,
    outside: string,
    forward: Disposable,
  ) {
    this.rig = rig;
    this.home = home;
    this.#vmm = vmm;
    this.#user = user;
    this.#outside = outside;
    this.#forward = forward;
    this.client = createClient({ socketPath: join(outside, 'run/bangerd.sock') });
  }

  /** Makes its home and starts its daemon. */
  static async start(rig: Rig, vmm: ProofVmm, user?: RigUser): Promise<RigBanger> {
    const home = `/tmp/b-${user?.name ?? 'root'}`;
    const script = `mkdir -p ${home}/cache; cp ${verdictOf(vmm)} ${home}/cache/kvm-self-test.json 2> /dev/null; chmod 700 ${home}; chown -R ${user?.name ?? 'root'} ${home}`;
    await rig.shell(script, SHELL_LIMIT_MS);
    const outside = await mkdtemp('/tmp/br-');
    await mkdir(join(outside, 'run'), { mode: 0o700 });
    const forward = await rig.forward(`${home}/run/bangerd.sock`, join(outside, 'run/bangerd.sock'));
    const banger = new RigBanger(rig, home, vmm, user, outside, forward);
    try {
      await banger.daemon();
    } catch (error) {
      await banger[Symbol.asyncDispose]();
      throw error;
    }
    return banger;
  }

  /** Starts the daemon, which a command outside cannot do. */
  async daemon(): Promise<void> {
    const env = [
      ...['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', `HOME=${this.home}`],
      ...[`BANGER_HOME=${this.home}`, `BANGER_BUNDLE_DEFAULT=${INSIDE}/bundle`, 'BANGER_WARM_AUTOMATIC=false'],
      ...[`BANGER_VMM=${this.#vmm}`, ...GUEST_LIMITS],
    ];
    const words = `${this.#user?.as ?? ''} env -i ${env.join(' ')} ${INSIDE}/banger/dist/banger daemon run`;
    const log = `${this.home}.log`;
    const socket = `${this.home}/run/bangerd.sock`;
    // of one that was killed
    const script = `cd /; rm -f ${socket}; setsid ${words} < /dev/null >> ${log} 2>&1 & pid=$!; echo $pid
      while test -e /proc/$pid && ! test -S ${socket}; do sleep 0.2; done; test -e /proc/$pid || { cat ${log} >&2; exit 1; }`;
    this.#pid = await this.shell(script);
    await this.client.call('status', {});
  }

  /** Ends the daemon as a crash would. */
  async killDaemon(): Promise<void> {
    await this.shell(`kill -KILL ${this.#pid}; while test -e /proc/${this.#pid}; do sleep 0.1; done`);
  }

  /** Runs a shell script in the rig as root; returns what it printed. */
  async shell(script: string): Promise<string> {
    return (await this.rig.shell(script, SHELL_LIMIT_MS)).trimEnd();
  }

  /** Runs a command of banger to its end, whatever that is. */
  async run(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('BANGER_'));
    const env = { ...Object.fromEntries(inherited), BANGER_HOME: this.#outside };
    const child = spawn(BANGER, args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
    return await watchChild(child, `banger ${args.join(' ')}`, { timeoutMs: COMMAND_LIMIT_MS, ...options }).ended;
  }

  /** Runs one that must succeed; returns its standard output without the last line break. */
  async ok(...args: string[]): Promise<string> {
    return outputOf(await this.run(args), args);
  }

  /** Runs a script in a guest that must succeed; returns its standard output without the last line break. */
  async guest(name: string, script: string): Promise<string> {
    return await this.ok('exec', '-n', name, '--', 'sh', '-c', script);
  }

  async vm(name: string): Promise<VmDetail> {
    return await this.client.call('showVm', { params: { name } });
  }

  /** Waits for the end of an operation, which must be a good one. */
  async done(begun: Promise<{ id: string }>): Promise<void> {
    const { state, error } = await followOperation(this.client, (await begun).id, () => {});
    assert.equal(state, 'succeeded', error?.message ?? state);
  }

  /** Waits until a VM runs by another VMM than this one. */
  async runsAgain(name: string, before: number | null): Promise<void> {
    await until(
      `${name} runs again`,
      async () => {
        const { state, pid } = await this.vm(name);
        if (state === 'running' && pid !== null && pid !== before) return true;
        // each look is emulated work of the daemon and the VMM
        await sleep(LOOK_MS);
        return false;
      },
      COMMAND_LIMIT_MS,
    );
  }

  /** Whether the VMM of a VM, or what it has started, has a VM of KVM: by open files. */
  async runsUnderKvm({ pid }: VmDetail): Promise<boolean> {
    assert.ok(pid, 'there is no VMM');
    const processes = `${pid} $(cat /proc/${pid}/task/${pid}/children)`;
    const files = await this.shell(`for p in ${processes}; do ls -l /proc/$p/fd 2> /dev/null; done; true`);
    return files.includes('anon_inode:kvm-vm');
  }

  /** Whether the VMM of the VM's last run was asked for Ctrl-Alt-Del. */
  async keysPressed({ directory }: VmDetail): Promise<boolean> {
    return (await this.shell(`cat ${directory}/vmm.log`)).includes('SendCtrlAltDel');
  }

  /** What its guests have printed, as far as their directories are there. */
  async consoles(): Promise<string> {
    return await this.shell(`cat ${this.home}/state/store/vms/*/console.log 2> /dev/null; true`);
  }

  /** Fails when anything of VMs runs in the rig, or is attached there. */
  async assertQuiet(): Promise<void> {
    const left = await this.shell(
      "pgrep -a 'qemu-system|fcqemu|firecracker'; ls /sys/class/net | grep '^bgr-'; ls /tmp/b-*/run/vmm 2> /dev/null; true",
    );
    assert.equal(left, '', 'something is left of VMs');
  }

  /** Whether it was told that KVM works. */
  async hasVerdict(): Promise<boolean> {
    return (await this.shell(`ls ${this.home}/cache`)).includes('kvm-self-test.json');
  }

  /** Lets those that are started from now on know that KVM works, as this one has found out. */
  async passVerdictOn(): Promise<void> {
    await this.shell(`cp ${this.home}/cache/kvm-self-test.json ${verdictOf(this.#vmm)}`);
  }

  /** Ends what works for it, by paths of its home in arguments, environment and place; removes what it had. */
  async [Symbol.asyncDispose](): Promise<void> {
    // not to be found by itself
    const home = `[/]${this.home.slice(1)}`;
    const script = [
      `p="$(grep -las '${home}' /proc/[0-9]*/cmdline /proc/[0-9]*/environ; ls -l /proc/[0-9]*/cwd 2> /dev/null | grep -o '/proc/[0-9]*/cwd -> ${home}')"`,
      'for pid in $(echo "$p" | cut -d/ -f3 | sort -u); do kill -KILL $pid; done',
      "for tap in $(ls /sys/class/net | grep '^bgr-'); do ip link delete $tap; done",
      // the same
      `cd /tmp && rm -rf ${this.home.slice('/tmp/'.length)}`,
    ];
    try {
      await this.shell(script.join('; '));
    } finally {
      this.#forward[Symbol.dispose]();
      await rm(this.#outside, { recursive: true, force: true });
    }
  }
}

/** What the first banger has found out about KVM: without it every other one would test for itself. */
function verdictOf(vmm: ProofVmm): string {
  return `/tmp/kvm-with-${vmm}.json`;
}
