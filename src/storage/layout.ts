/** Where each VM's files live below the store; documented in docs/state-files.md. */
import { join } from 'node:path';

export interface VmFiles {
  /** everything of one VM; deleting it deletes the VM's data */
  directory: string;
  rootDisk: string;
  /** root disk of another image, before it takes the place of the VM's */
  nextRootDisk: string;
  /** the VM's root disk while another has its place and did not yet come up */
  lastRootDisk: string;
  workDisk: string;
  /** disks of a snapshot, before they take the place of the VM's */
  restoredRootDisk: string;
  restoredWorkDisk: string;
  /** directory with the memory of a snapshot, before it is the VM's */
  restoredMemory: string;
  /** written anew at each start */
  seedDrive: string;
  /** what it was given for its first boot; absent for most */
  userData: string;
  /** serial console of the current and earlier runs */
  consoleLog: string;
  /** the VMM's own log of the current run */
  vmmLog: string;
  /** socket by which the VMM leads to the guest's agent */
  vsock: string;
  /** API socket of a VMM that runs as a user of its own */
  apiSocket: string;
}

export function vmFiles(store: string, vmId: string): VmFiles {
  const directory = join(store, 'vms', vmId);
  return {
    directory,
    rootDisk: join(directory, 'root.ext4'),
    nextRootDisk: join(directory, 'root.next.ext4'),
    lastRootDisk: join(directory, 'root.last.ext4'),
    workDisk: join(directory, 'work.ext4'),
    restoredRootDisk: join(directory, 'root.restored.ext4'),
    restoredWorkDisk: join(directory, 'work.restored.ext4'),
    restoredMemory: join(directory, 'suspended.restored'),
    seedDrive: join(directory, 'seed.img'),
    userData: join(directory, 'user-data.json'),
    consoleLog: join(directory, 'console.log'),
    vmmLog: join(directory, 'vmm.log'),
    vsock: join(directory, 'v.sock'),
    apiSocket: join(directory, 'api.sock'),
  };
}

/** Files of a guest that stands still, in a directory of their own beside its disks. */
export interface MemoryFiles {
  directory: string;
  /** the guest's memory */
  memory: string;
  /** state of CPUs and devices, in the VMM's own form */
  state: string;
  /** what they are, and what they go on with */
  manifest: string;
}

/** Memory of a suspended VM; `unfinished` while it is being written. */
export function memoryFiles(store: string, vmId: string, unfinished = false): MemoryFiles {
  return memoryFilesIn(join(store, 'vms', vmId, unfinished ? 'suspended.new' : 'suspended'));
}

/** The same in a directory that is yet to be that of a VM. */
export function memoryFilesIn(directory: string): MemoryFiles {
  return {
    directory,
    memory: join(directory, 'memory'),
    state: join(directory, 'state'),
    manifest: join(directory, 'manifest.json'),
  };
}

/** Files of one snapshot, below its VM's directory: they stay and go with it. */
export interface SnapshotFiles {
  directory: string;
  rootDisk: string;
  workDisk: string;
  /** the guest's memory, and state of CPUs and devices; of snapshots that have them */
  memory: string;
  state: string;
  /** what the snapshot is, for whoever finds the directory alone */
  manifest: string;
}

export function snapshotFiles(store: string, vmId: string, snapshotId: string): SnapshotFiles {
  const directory = join(snapshotsDirectory(store, vmId), snapshotId);
  return {
    directory,
    rootDisk: join(directory, 'root.ext4'),
    workDisk: join(directory, 'work.ext4'),
    memory: join(directory, 'memory'),
    state: join(directory, 'state'),
    manifest: join(directory, 'manifest.json'),
  };
}

export function snapshotsDirectory(store: string, vmId: string): string {
  return join(vmFiles(store, vmId).directory, 'snapshots');
}

/** Files of a template: its memory, and its disks as they were at that moment. */
export interface TemplateFiles {
  directory: string;
  memory: string;
  state: string;
  rootDisk: string;
  workDisk: string;
}

export function templateFiles(store: string, id: string): TemplateFiles {
  const directory = join(store, 'templates', id);
  return {
    directory,
    memory: join(directory, 'memory'),
    state: join(directory, 'state'),
    rootDisk: join(directory, 'root.ext4'),
    workDisk: join(directory, 'work.ext4'),
  };
}

/** Work disks that were kept when their VM was deleted, each `NAME.ext4`. */
export function keptDirectory(store: string): string {
  return join(store, 'kept');
}

/** A Unix socket's address holds 108 bytes with its terminating zero. */
export const MAX_SOCKET_PATH_BYTES = 107;

/** API socket of a VM's VMM that runs as the daemon's user, or as root for that. */
export function vmmSocket(run: string, vmId: string): string {
  return join(run, 'vmm', `${vmId}.sock`);
}

/** Files of one image, in its own directory below the store. */
export interface ImageFiles {
  directory: string;
  rootfs: string;
  kernel: string;
  initrd: string;
  /** installed packages, one `name version arch` a line, sorted */
  packages: string;
  /** of an OCI image: what it is and what runs in it */
  oci: string;
}

export function imageFiles(store: string, imageId: string): ImageFiles {
  const directory = join(store, 'images', imageId);
  return {
    directory,
    rootfs: join(directory, 'rootfs.ext4'),
    kernel: join(directory, 'vmlinux'),
    initrd: join(directory, 'initrd.img'),
    packages: join(directory, 'rootfs.packages'),
    oci: join(directory, 'oci.json'),
  };
}

/** Where OCI images come in. */
export interface OciFiles {
  directory: string;
  /** layers and other blobs by digest, in directories by algorithm */
  blobs: string;
  /** a directory for each pull that is under way */
  pulls: string;
}

export function ociFiles(store: string): OciFiles {
  const directory = join(store, 'oci');
  return { directory, blobs: join(directory, 'blobs'), pulls: join(directory, 'pulls') };
}

/** The disk kept after one step of image builds, by the step's key; beside the images so that both can share blocks. */
export function layerFile(store: string, key: string): string {
  return join(store, 'layers', `${key}.ext4`);
}

/** A VM as it stood when the disk of a layer was kept. */
export interface KeptVmFiles {
  /** the guest's memory */
  memory: string;
  /** state of CPUs and devices, in the VMM's own form */
  state: string;
}

/** The machine kept beside a layer, where there is one. */
export function layerKeptVm(store: string, key: string): KeptVmFiles {
  const path = join(store, 'layers', key);
  return { memory: `${path}.memory`, state: `${path}.vmstate` };
}

/** Every file a layer may have. */
export function layerFiles(store: string, key: string): string[] {
  const { memory, state } = layerKeptVm(store, key);
  return [layerFile(store, key), memory, state];
}
