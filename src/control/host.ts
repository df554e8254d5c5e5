/** What every use case works with: the host, the state and the choices made for this daemon. */
import type { DoctorCommand, DoctorReport } from '../api/schemas.ts';
import type { Config } from '../config/schema.ts';
import type { Subnet } from '../core/addresses.ts';
import type { VmRecord } from '../core/vm.ts';
import type { SshKeyPair } from '../guest/keys.ts';
import type { BootFiles } from '../preflight/context.ts';
import type { ImageStore } from '../state/images.ts';
import type { LayerStore } from '../state/layers.ts';
import type { Ledger } from '../state/ledger.ts';
import type { Settings } from '../state/settings.ts';
import type { Trash } from '../state/trash.ts';
import type { VmStore } from '../state/vms.ts';
import type { Privileged } from '../system/privilege.ts';
import type { Argv, Runner } from '../system/runner.ts';
import type { BuildVms } from './builds/build-vms.ts';
import type { Events } from './events.ts';
import type { HostNetwork } from './network/host-network.ts';
import type { Operations } from './operations.ts';
import type { GuestConnections } from './vm/connections.ts';

/** The VMM chosen for this host, with the reason. */
export interface VmmProgram {
  kind: 'firecracker' | 'fcqemu';
  acceleration: 'kvm' | 'tcg';
  /** program and leading arguments */
  program: Argv;
  /** what the VMM needs in its environment besides the daemon's */
  env: NodeJS.ProcessEnv;
  reason: string;
}

export interface Log {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface Health {
  /** ids of VMs whose VMM lives and does not answer */
  silent: Set<string>;
}

export interface Host {
  config: Config;
  /** user the daemon runs as */
  uid: number;
  env: NodeJS.ProcessEnv;
  log: Log;
  runner: Runner;
  privileged: Privileged;
  /** Runs `work` in one transaction of the database. */
  atomically<T>(work: () => T): T;
  vms: VmStore;
  /** deleted VMs that can still be had back */
  trash: Trash;
  ledger: Ledger;
  /** VMs of image builds */
  buildVms: BuildVms;
  images: ImageStore;
  layers: LayerStore;
  settings: Settings;
  operations: Operations;
  /** what happened lately to VMs and operations */
  events: Events;
  network: HostNetwork;
  /** what the daemon noticed about VMs that run */
  health: Health;
  guests: GuestConnections;
  /** key pair banger logs in with */
  clientKey: SshKeyPair;
  /** file of the private half, for the system's own ssh */
  clientKeyFile: string;
  pool: Subnet;
  /**
   * Files of an image or bundle by name; the default bundle without one.
   * @throws BangerError `not_found` or `corrupt`
   */
  bootFiles(name?: string): Promise<BootFiles>;
  /**
   * Files a VM boots, whatever its image is called now.
   * @throws BangerError `not_found` or `corrupt`
   */
  vmBootFiles(vm: Pick<VmRecord, 'id' | 'name' | 'image' | 'imageId'>): Promise<BootFiles>;
  /**
   * Runs the checks of a start.
   * @throws BangerError `preflight_failed` with all failures
   */
  preflightStart(boot: BootFiles, vm: Pick<VmRecord, 'vcpus' | 'memoryMib' | 'nat'>): Promise<void>;
  /** every check, or those of one command */
  doctor(command?: DoctorCommand): Promise<DoctorReport>;
  /** text of the sudoers rules that let this user run the daemon without root */
  sudoers(): Promise<string>;
  chooseVmm(boot: BootFiles): Promise<VmmProgram>;
  now(): Date;
}
