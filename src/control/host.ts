/** What every use case works with: the host, the state and the choices made for this daemon. */
import type { DoctorReport } from '../api/schemas.ts';
import type { Config } from '../config/schema.ts';
import type { Subnet } from '../core/addresses.ts';
import type { VmRecord } from '../core/vm.ts';
import type { SshKeyPair } from '../guest/keys.ts';
import type { BootFiles } from '../preflight/context.ts';
import type { ImageStore } from '../state/images.ts';
import type { LayerStore } from '../state/layers.ts';
import type { Ledger } from '../state/ledger.ts';
import type { Settings } from '../state/settings.ts';
import type { VmStore } from '../state/vms.ts';
import type { Privileged } from '../system/privilege.ts';
import type { Argv, Runner } from '../system/runner.ts';
import type { BuildVms } from './build-vms.ts';
import type { GuestConnections } from './guest-connections.ts';
import type { HostNetwork } from './host-network.ts';
import type { Operations } from './operation.ts';

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
  ledger: Ledger;
  /** VMs of image builds */
  buildVms: BuildVms;
  images: ImageStore;
  layers: LayerStore;
  settings: Settings;
  operations: Operations;
  network: HostNetwork;
  guests: GuestConnections;
  /** key pair banger logs in with */
  clientKey: SshKeyPair;
  /** file of the private half, for the system's own ssh */
  clientKeyFile: string;
  pool: Subnet;
  /**
   * Files of a bundle by name; the default bundle without one.
   * @throws BangerError `not_found` or `corrupt`
   */
  bootFiles(name?: string): Promise<BootFiles>;
  /**
   * Runs the checks of a start.
   * @throws BangerError `preflight_failed` with all failures
   */
  preflightStart(boot: BootFiles, vm: Pick<VmRecord, 'vcpus' | 'memoryMib' | 'nat'>): Promise<void>;
  doctor(): Promise<DoctorReport>;
  /** text of the sudoers rules that let this user run the daemon without root */
  sudoers(): Promise<string>;
  chooseVmm(boot: BootFiles): Promise<VmmProgram>;
  now(): Date;
}
