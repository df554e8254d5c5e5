/** Saves the memory of a guest: of suspended VMs, and of those that image builds keep. */
import { mkdir, open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Fit } from '../../core/fit.ts';
import type { VmRecord } from '../../core/vm.ts';
import { connectVmm, type VmmApi, versionOfVmm } from '../../firecracker/api.ts';
import { createSnapshot, setState } from '../../firecracker/requests.ts';
import { type MemoryFiles, memoryFiles, vmFiles } from '../../storage/layout.ts';
import { pathExists, syncPath } from '../../system/files.ts';
import { asVmmNamesIt, makeFileForVmm } from '../handover.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { vmmSocketOf } from '../vmm.ts';
import { type Identities, identitiesOf, identityOf, type Manifest, type Waker, writeManifest } from './manifest.ts';

/** Firecracker writes all of the guest's memory, to a slow disk perhaps. */
const SAVE_LIMIT_MS = 10 * 60_000;

/**
 * Makes the files that the memory of a guest is about to be saved to, while it still runs.
 * @returns what the VMM calls itself: no other version reads its state
 */
export async function prepareSave(
  host: Host,
  vm: VmRecord,
  api: VmmApi,
  { memory, state }: Pick<MemoryFiles, 'memory' | 'state'>,
): Promise<string> {
  for (const path of [state, memory]) await makeFileForVmm(host, vm, path);
  // asked of the one that runs: its program may have been replaced since it was started
  return (await versionOfVmm(api)).text;
}

/** Writes a paused guest to files that were prepared; they are gone when it fails. */
export async function saveMemory(
  host: Host,
  vm: VmRecord,
  api: VmmApi,
  { memory, state }: Pick<MemoryFiles, 'memory' | 'state'>,
): Promise<void> {
  try {
    const [snapshot_path, mem_file_path] = [asVmmNamesIt(host, vm, state), asVmmNamesIt(host, vm, memory)];
    await api.send(createSnapshot({ snapshot_path, mem_file_path }), SAVE_LIMIT_MS);
  } catch (error) {
    for (const path of [memory, state]) await rm(path, { force: true });
    throw error;
  }
}

export interface Checkpoint {
  /** names it for good */
  id: string;
  /** where it is written; what was there is gone */
  files: MemoryFiles;
  /** what it goes on with */
  fit: Fit;
  waker: Waker;
}

/**
 * Holds a guest and saves its memory with what its disks are at that moment, all of it safe on disk. The guest stands
 * still afterwards, also when it fails: whoever asked lets it go on, or ends it.
 */
export async function takeCheckpoint(
  host: Host,
  vm: VmRecord,
  { id, files, fit, waker }: Checkpoint,
  progress: Progress,
  signal: AbortSignal,
): Promise<Manifest> {
  const disks = disksOf(host, vm);
  await rm(files.directory, { recursive: true, force: true });
  await mkdir(files.directory, { mode: 0o700 });
  // while it still runs: little is left to be written when it stands still
  await syncAll(Object.values(disks));
  signal.throwIfAborted();
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  const vmmVersion = await prepareSave(host, vm, api, files);
  await api.send(setState('Paused'));
  const at = host.now().toISOString();
  progress.step('save-memory', 'saving its memory');
  await saveMemory(host, vm, api, files);
  signal.throwIfAborted();
  progress.step('sync', 'making it safe on disk');
  await syncAll([files.memory, files.state, ...Object.values(disks)]);
  const manifest: Manifest = {
    ...{ format: 1, id, at, address: vm.address, fit, waker, vmmVersion },
    disks: await identitiesOf(disks),
    memory: await identityOf(files.memory),
    state: await identityOf(files.state),
  };
  await writeManifest(files, manifest);
  await syncPath(files.directory);
  await syncPath(dirname(files.directory));
  signal.throwIfAborted();
  return manifest;
}

/** Disks that a guest has open, by what people call them. */
export function disksOf({ config }: Pick<Host, 'config'>, vm: Pick<VmRecord, 'id' | 'workDiskBytes'>): Disks {
  const { rootDisk, seedDrive, workDisk } = vmFiles(config.paths.store, vm.id);
  return {
    'root disk': rootDisk,
    'seed drive': seedDrive,
    ...(vm.workDiskBytes > 0 ? { 'work disk': workDisk } : {}),
  };
}

type Disks = Readonly<Record<keyof Identities, string>>;

/** Removes memory that no record speaks of any more; what is gone already is no error. */
export async function forgetMemory({ config }: Pick<Host, 'config'>, { id }: Pick<VmRecord, 'id'>): Promise<void> {
  for (const unfinished of [true, false]) {
    const { directory } = memoryFiles(config.paths.store, id, unfinished);
    if (await pathExists(directory)) await rm(directory, { recursive: true, force: true });
  }
}

/** Makes files safe on disk. */
export async function syncAll(paths: readonly string[]): Promise<void> {
  await Promise.all(
    paths.map(async (path) => {
      await using file = await open(path, 'r');
      await file.sync();
    }),
  );
}
