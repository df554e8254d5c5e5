/**
 * What every use case works with: the configuration, the records, and the doors to this host and its guests. Functions
 * say with `Pick<Host, …>` which of them they need.
 */
import type { Config } from '../config/schema.ts';
import type { Subnet } from '../core/addresses.ts';
import type { HealthState } from '../core/process-state.ts';
import type { VmRecord } from '../core/vm.ts';
import type { VmUsers } from '../core/vm-users.ts';
import type { GuestAgent } from '../guest/agent/agent.ts';
import type { ReadinessOptions } from '../guest/readiness.ts';
import type { SshConnection, SshTarget } from '../guest/ssh.ts';
import type { Stores } from '../state/stores.ts';
import type { CgroupHome } from '../system/cgroup.ts';
import type { Privileged } from '../system/privilege.ts';
import type { Runner } from '../system/runner.ts';
import type { Checks } from './checks.ts';
import type { Events } from './events.ts';
import type { Operations } from './operations.ts';

export interface Host {
  config: Config;
  log: Log;
  now(): Date;
  stores: Stores;
  system: HostSystem;
  network: HostNetwork;
  guests: Guests;
  agents: Agents;
  /** what is asked of the host before a VM is touched */
  checks: Checks;
  operations: Operations;
  /** what happened lately to VMs and operations */
  events: Events;
  /** what the daemon noticed about VMs that run */
  health: Health;
}

export interface Log {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface Health {
  /** ids of VMs whose VMM lives and does not answer */
  silent: Set<string>;
  /** ids of VMs that were started emulated while it was not known whether KVM works */
  emulatedMeanwhile: Set<string>;
  /** by ids of VMs, what the HEALTHCHECK of their image found last */
  processes: Map<string, HealthState>;
}

/** Programs of this host, and as whom they run. */
export interface HostSystem {
  runner: Runner;
  privileged: Privileged;
  /** user the daemon runs as */
  uid: number;
  /** users VMs run as */
  vmUsers: VmUsers;
  /** where VMs get control groups */
  cgroups: CgroupHome;
  env: NodeJS.ProcessEnv;
}

/** The host's side of all links to VMs. */
export interface HostNetwork {
  /** range the addresses of VMs are from */
  pool: Subnet;
  /** Gives a VM its tap, address, route and firewall membership; each is in the ledger before it exists. */
  attach(vm: VmRecord, options?: { closed?: boolean }): Promise<void>;
  /** Lets a VM speak that was attached `closed`, as one that may still take itself for another. */
  open(vm: VmRecord): Promise<void>;
  /** Largest packet in bytes that leaves this host whole; links to guests use the same. */
  mtu(): Promise<number>;
  /** Takes all of it away again; what is gone already is no error. */
  detach(vm: Pick<VmRecord, 'id'>): Promise<void>;
  /**
   * Makes rules and routes agree with the VMs that are attached, whoever changed them; says what it put back. Looks only
   * where something changed, or was not looked at for long.
   */
  mend(): Promise<Mended>;
  /** The same with what the host shares between VMs, which goes with the last of them. */
  reassert(): Promise<Mended>;
  /** Writes the rules anew: a VM's membership changed. */
  rewrite(): Promise<void>;
  /**
   * Does something while no VM is attached or detached.
   * @param work gets what writes the rules anew, as `rewrite` would wait for the work
   */
  alone<T>(work: (writeRules: () => Promise<void>) => Promise<T>): Promise<T>;
}

/** What was not as it should be and is again. */
export interface Mended {
  rules: boolean;
  /** taps and ranges whose route was put back */
  routes: string[];
  /** devices that are gone and cannot be put back under the VMMs that have them open */
  goneTaps: string[];
}

/** SSH connections to VMs that run. */
export interface Guests extends AsyncDisposable {
  /** public half of the key pair banger logs in with */
  publicKey: string;
  /** file of the private half, for the system's own ssh */
  keyFile: string;
  target(vm: VmRecord): SshTarget;
  /**
   * Waits until a guest that boots lets us in.
   * @throws BangerError `timeout`, or `guest_failed` for what it says or `givenUp` says
   */
  firstLogin(vm: VmRecord, options: ReadinessOptions): Promise<SshConnection>;
  /** Takes over the connection that proved the guest ready. */
  keep(vm: VmRecord, connection: SshConnection): void;
  /**
   * An open connection, a new one when there is none.
   * @throws BangerError `guest_failed` when the guest does not let us in
   */
  get(vm: VmRecord): Promise<SshConnection>;
  /**
   * A second connection for one command, when the first refused another channel (sshd allows 10 on each).
   * @throws the refusal itself when the first connection is the problem
   */
  extra(vm: VmRecord, refusal: unknown): Promise<SshConnection>;
  /** The open connection, if there is one. */
  peek(vm: Pick<VmRecord, 'id'>): SshConnection | undefined;
  /** Closes a VM's connection. */
  drop(vm: Pick<VmRecord, 'id'>): Promise<void>;
}

/** Connections to the agents inside VMs that run. What they cannot do is done over SSH. */
export interface Agents extends AsyncDisposable {
  /**
   * An open connection, a new one when there is none.
   * @returns undefined when the guest has no agent that answers; why stands in the log, the events and `standing`
   */
  get(vm: Pick<VmRecord, 'id' | 'name' | 'startedAt'>): Promise<GuestAgent | undefined>;
  /**
   * Connects anew and keeps the connection: for a guest whose memory was just loaded, which must answer.
   * @throws AgentError
   */
  connect(
    vm: Pick<VmRecord, 'id' | 'name' | 'startedAt'>,
    options: { timeoutMs: number; signal?: AbortSignal },
  ): Promise<GuestAgent>;
  /** What an agent was asked it did not do as it should: it is not asked again for a while. */
  failed(vm: Pick<VmRecord, 'id' | 'name' | 'startedAt'>, error: unknown): void;
  /** What is known of it now, without asking. */
  standing(vm: Pick<VmRecord, 'id' | 'startedAt'>): AgentStanding | undefined;
  /** Closes a VM's connection and forgets what is known. */
  drop(vm: Pick<VmRecord, 'id'>): Promise<void>;
}

/** What is known of the agent of a guest that runs. */
export type AgentStanding =
  | { kind: 'present'; version: string; features: string[] }
  | { kind: 'absent' }
  | { kind: 'troubled'; why: string };
