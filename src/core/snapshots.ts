/** Snapshots of a VM: what their records hold, how they are named, and which of the automatic ones stay. */
import { BangerError } from '../errors.ts';
import type { Fit } from './fit.ts';
import type { TemplateFile } from './template.ts';
import type { VmRecord } from './vm.ts';

/** What of a VM's record belongs to its disks: put back with them. */
export interface SnapshotValues
  extends Pick<
    VmRecord,
    'image' | 'imageId' | 'vcpus' | 'memoryMib' | 'rootDiskBytes' | 'workDiskBytes' | 'workDiskMount'
  > {
  /** missing in snapshots of earlier bangers; their VM's says it */
  process?: VmRecord['process'];
}

export interface SnapshotRecord {
  /** 8 hexadecimal digits; name of its directory */
  id: string;
  vmId: string;
  /** DNS label, unique among those of its VM */
  name: string;
  /** ISO 8601 */
  createdAt: string;
  /** taken by banger before it put others in place, see `undo` */
  automatic: boolean;
  /** whether the guest's memory is in it */
  memory: boolean;
  /** of one with memory: what that is and what it goes on with */
  saved?: SnapshotMemory;
  /**
   * how the disks came to be of one moment: the VM did not run; its guest held its file systems still; the guest stood still, with
   * its memory saved; it was suspended
   */
  taken: 'at-rest' | 'frozen' | 'held' | 'suspended';
  /** `ms` that the guest could not write, null when it did not run */
  pauseMs: number | null;
  /** whether the VM had made its work disk by then */
  hasWorkDisk: boolean;
  values: SnapshotValues;
}

export interface SnapshotMemory {
  fit: Fit;
  /** what the VMM that wrote the state calls itself; no other version reads it */
  vmmVersion: string;
  /** address that the guest has */
  address: string;
  /** what the guest was started with */
  run: NonNullable<VmRecord['run']>;
  ready: NonNullable<VmRecord['ready']>;
  /** memory, state, root and work disk, in this order: one that was written or replaced since is told apart */
  files: TemplateFile[];
}

/** As names of VMs and images. */
const SNAPSHOT_NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** How many states before a `restore` are kept: each is a whole disk where blocks are not shared. */
const KEPT_AUTOMATIC = 3;

export function valuesOf(vm: VmRecord): SnapshotValues {
  const { image, imageId, vcpus, memoryMib, rootDiskBytes, workDiskBytes, workDiskMount, process } = vm;
  return { image, imageId, vcpus, memoryMib, rootDiskBytes, workDiskBytes, workDiskMount, process };
}

/**
 * A name for a snapshot that was given none, e.g. `20261129-160102`, made one of its own by a number.
 * @param begin what it begins with
 */
export function timedName(at: Date, taken: ReadonlySet<string>, begin = ''): string {
  const digits = at
    .toISOString()
    .replace(/\.\d+Z$/, '')
    .replaceAll(/[-:]/g, '')
    .replace('T', '-');
  const base = `${begin}${digits}`;
  for (let number = 1; ; number++) {
    const name = number === 1 ? base : `${base}-${number}`;
    if (!taken.has(name)) return name;
  }
}

/** @throws BangerError `invalid_input` */
export function requireSnapshotName(name: string): void {
  if (SNAPSHOT_NAME.test(name)) return;
  throw new BangerError('invalid_input', `"${name}" cannot be the name of a snapshot.`, {
    hint: 'Choose one of lower-case letters, digits and inner dashes, for example: before-upgrade',
  });
}

/** The state before the last `restore`, which `undo` puts back. */
export function latestAutomatic(snapshots: readonly SnapshotRecord[]): SnapshotRecord | undefined {
  return automatic(snapshots)[0];
}

/** Automatic ones beyond those that are kept, the newest of which is the state before the last `restore`. */
export function surplusAutomatic(snapshots: readonly SnapshotRecord[]): SnapshotRecord[] {
  return automatic(snapshots).slice(KEPT_AUTOMATIC);
}

function automatic(snapshots: readonly SnapshotRecord[]): SnapshotRecord[] {
  return snapshots.filter((each) => each.automatic).sort((a, b) => b.createdAt.localeCompare(a.createdAt));
}
