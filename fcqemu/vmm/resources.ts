/** Everything configured before the start, and its echo in `GET /vm/config`. */
import { closeSync, openSync } from 'node:fs';
import type { ActionArguments } from '../api/actions.ts';
import { Fault, ioErrorDebug, ioErrorText, unsupported } from '../fault.ts';
import type { QemuSpec } from '../qemu/arguments.ts';
import { Balloon } from './balloon.ts';
import { bootArgsProblem } from './command-line.ts';
import { Drives } from './drives.ts';
import { isElfWithoutPvh } from './kernel-image.ts';
import { defaultMachineConfig, type StoredMachineConfig, updatedMachineConfig } from './machine-config.ts';
import type { Mmds, StoredMmdsConfig } from './mmds/store.ts';
import { NetworkInterfaces } from './net/interfaces.ts';
import { type StoredBucket, type StoredLimiter, storedLimiter } from './rate-limiter.ts';
import { Vsock } from './vsock/vsock.ts';

export interface StoredBootSource {
  kernel_image_path: string;
  initrd_path: string | null;
  boot_args: string | null;
}

/** What a snapshot knows of the configuration besides the machine as it was built. */
export interface Restored {
  machine: StoredMachineConfig;
  bootSource: StoredBootSource | null;
  mmdsConfig: StoredMmdsConfig | null;
}

export class Resources {
  readonly drives = new Drives();
  readonly interfaces = new NetworkInterfaces();
  readonly balloon = new Balloon();
  readonly vsock = new Vsock();
  readonly mmds: Mmds;
  bootSource: StoredBootSource | null = null;
  machine: StoredMachineConfig = defaultMachineConfig();
  entropy: { rate_limiter: StoredLimiter | null } | null = null;
  serial: { path: string | null; limit: StoredBucket | null } = { path: null, limit: null };

  constructor(mmds: Mmds) {
    this.mmds = mmds;
  }

  /** @throws Fault */
  setBootSource(config: StoredBootSource): void {
    const prefix = 'Boot source error';
    checkOpens(config.kernel_image_path, `${prefix}: The kernel file cannot be opened:`, 'InvalidKernelPath');
    if (config.initrd_path !== null) {
      const cause = 'The initrd file cannot be opened due to invalid path or invalid permissions.';
      checkOpens(config.initrd_path, `${prefix}: ${cause}`, 'InvalidInitrdPath');
    }
    const problem = bootArgsProblem(config.boot_args ?? '');
    if (problem) {
      throw new Fault(`${prefix}: The kernel command line is invalid: ${problem}`, {
        debug: `InvalidKernelCommandLine("${problem}")`,
      });
    }
    if (isElfWithoutPvh(config.kernel_image_path))
      throw unsupported(prefix, 'ELF kernels built without CONFIG_PVH are');
    this.bootSource = { ...config };
  }

  /** @throws Fault */
  async putInterface(config: ActionArguments['InsertNetworkDevice']): Promise<void> {
    const before = this.interfaces.find(config.iface_id);
    try {
      await this.interfaces.put(config);
    } finally {
      // the service belongs to the interface that was, not to its successor of the same name
      if (before && !this.interfaces.list.includes(before)) this.mmds.forget(before.iface_id);
    }
  }

  /** @throws Fault */
  updateMachine(update: ActionArguments['UpdateMachineConfiguration']): void {
    this.machine = updatedMachineConfig(this.machine, update, this.balloon.config?.amount_mib ?? 0);
  }

  setEntropy(config: ActionArguments['SetEntropyDevice']): void {
    this.entropy = { rate_limiter: storedLimiter(config.rate_limiter) };
  }

  setSerial(config: ActionArguments['ConfigureSerial']): void {
    const limit = storedLimiter({ bandwidth: config.rate_limiter })?.bandwidth ?? null;
    this.serial = { path: config.serial_out_path, limit };
  }

  /** Takes over what a snapshot's machine has. The files of its boot source are not looked at again. */
  async restore(
    spec: QemuSpec,
    { machine, bootSource, mmdsConfig }: Restored,
    trackDirtyPages: boolean,
  ): Promise<void> {
    this.machine = { ...machine, track_dirty_pages: trackDirtyPages };
    this.bootSource = bootSource;
    this.drives.list.push(...spec.drives.map(({ serial: _serial, isBlockDevice: _kind, ...drive }) => drive));
    await this.interfaces.restore(spec.interfaces.map(({ mac: _mac, ...iface }) => iface));
    this.entropy = spec.entropy;
    this.balloon.config = spec.balloon;
    this.mmds.config = mmdsConfig;
    if (spec.vsock) await this.vsock.bind(spec.vsock);
  }

  /** `GET /vm/config`; keys in Firecracker's order, which never echoes cpu-config, logger and metrics. */
  fullConfig(): Record<string, unknown> {
    return {
      balloon: this.balloon.config,
      drives: this.drives.list,
      'boot-source': this.bootSource ?? { kernel_image_path: '', initrd_path: null, boot_args: null },
      'cpu-config': null,
      logger: null,
      'machine-config': this.machine,
      metrics: null,
      'mmds-config': this.mmds.config,
      'network-interfaces': this.interfaces.list,
      vsock: this.vsock.config,
      entropy: this.entropy,
      pmem: [],
      'memory-hotplug': null,
    };
  }
}

/** Opens a file as the loader will. @throws Fault */
function checkOpens(path: string, prefix: string, variant: string): void {
  try {
    closeSync(openSync(path, 'r'));
  } catch (error) {
    throw new Fault(`${prefix} ${ioErrorText(error)}`, { debug: `${variant}(${ioErrorDebug(error)})` });
  }
}
