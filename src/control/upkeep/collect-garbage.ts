/** Looks for what belongs to nobody any more, says whose it was, and frees it. */
import { readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { findGarbage, type Garbage, type Inventory } from '../../core/find-garbage.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { findVmm, listVmms } from '../../firecracker/launch.ts';
import { memoryFiles, snapshotsDirectory } from '../../storage/layout.ts';
import { pathExists } from '../../system/files.ts';
import type { Host } from '../host.ts';
import { strayTemplates } from '../memory/templates.ts';
import type { Progress } from '../operations.ts';
import { discardVm, releaseVm } from '../vm/release.ts';
import { vmOfSocket } from '../vmm.ts';

export interface GarbageOptions {
  /** only say what there is */
  dryRun: boolean;
  /** also disks of VMs of which there is no record */
  disks: boolean;
}

export interface CollectedGarbage extends Garbage {
  freed: boolean;
}

/** Phases in which a VM holds more than its disks. */
const ACTIVE = new Set(['starting', 'running', 'stopping', 'suspending', 'resuming']);

/** Phases in which a VM holds nothing of a run. */
const AT_REST = new Set(['stopped', 'failed', 'suspended']);

/** Directories of VMs are named by their id. */
const VM_ID = /^[0-9a-f]{8}$/;

/**
 * @throws BangerError `conflict` while anything is going on: what it made may not be written down yet
 */
export async function collectGarbage(
  host: Host,
  { dryRun, disks }: GarbageOptions,
  progress: Progress,
): Promise<CollectedGarbage[]> {
  // one of them is this one
  if (!dryRun && host.operations.runningCount() > 1) {
    throw new BangerError('conflict', 'Nothing can be freed while operations run: it might be theirs.', {
      hint: 'Wait for them: banger operation list   or only look: banger gc --dry-run',
    });
  }
  progress.step('look', 'looking at what is on this host');
  const found = findGarbage(await takeInventory(host));
  const collected: CollectedGarbage[] = [];
  for (const each of found) {
    const free = !dryRun && (each.verdict === 'free' || (each.verdict === 'ask' && disks)) && !isWanted(host, each);
    if (free) {
      progress.step('free', `freeing ${each.name}`);
      await freeGarbage(host, each);
    }
    collected.push({ ...each, freed: free });
  }
  return collected;
}

async function takeInventory(host: Host): Promise<Inventory> {
  const { store, run } = host.config.paths;
  const vmmDirectory = join(run, 'vmm');
  const sockets = (await namesIn(vmmDirectory)).filter((name) => name.endsWith('.sock'));
  const deadSockets: { path: string; id: string }[] = [];
  for (const name of sockets) {
    const path = join(vmmDirectory, name);
    if ((await findVmm(path)) === undefined) deadSockets.push({ path, id: basename(name, '.sock') });
  }
  const vmsDirectory = join(store, 'vms');
  const directories = await Promise.all(
    (await namesIn(vmsDirectory))
      .filter((name) => VM_ID.test(name))
      .map(async (name) => {
        const path = join(vmsDirectory, name);
        return { name, path, holdsDisk: (await namesIn(path)).some((file) => file.endsWith('.ext4')) };
      }),
  );
  const snapshots = await Promise.all(
    directories.map(async ({ name: vmId }) => {
      const directory = snapshotsDirectory(store, vmId);
      const unknown = (await namesIn(directory)).filter((id) => host.stores.snapshots.findById(id) === undefined);
      return unknown.map((id) => ({ path: join(directory, id), vmId }));
    }),
  );
  const vmms = await listVmms((path) => vmOfSocket(host, path) !== undefined);
  return {
    ledger: host.stores.ledger
      .all()
      .map(({ owner, resource }) => ({ owner, kind: resource.kind, name: resource.name })),
    vms: [...host.stores.vms.list(), ...host.stores.buildVms.list()].map(({ id, name, phase }) => ({
      id,
      name,
      active: ACTIVE.has(phase),
    })),
    trash: host.stores.trash.list().map(({ vm }) => ({ id: vm.id, name: vm.name })),
    directories,
    snapshots: snapshots.flat(),
    memories: await leftMemories(host),
    templates: await strayTemplates(host),
    deadSockets,
    vmms: vmms.map(({ pid, socketPath }) => ({ pid, socketPath, id: vmOfSocket(host, socketPath) ?? '' })),
    taps: (await namesIn('/sys/class/net')).filter((name) => /^bgr-/.test(name)),
  };
}

/** Whether it is suspended or about to be, or begins with the memory of another. */
function mayHaveMemory({ memory, phase }: Pick<VmRecord, 'memory' | 'phase'>): boolean {
  return memory !== null || phase === 'suspending' || phase === 'creating';
}

/** Of VMs that have none. */
async function leftMemories({ config, stores }: Host): Promise<Inventory['memories']> {
  const vms = [...stores.vms.list(), ...stores.trash.list().map(({ vm }) => vm)];
  const left = vms.flatMap(({ id, name, ...vm }) =>
    mayHaveMemory(vm)
      ? []
      : [true, false].map((unfinished) => ({
          ...{ path: memoryFiles(config.paths.store, id, unfinished).directory, vmId: id, name },
        })),
  );
  const there = await Promise.all(left.map(async (each) => ((await pathExists(each.path)) ? [each] : [])));
  return there.flat();
}

/**
 * Whether it is somebody's by now: since the look, while others were freed, a VM may have been started, suspended or had back,
 * and a snapshot or a template been finished.
 */
function isWanted({ stores, operations }: Host, { kind, owner, name }: Garbage): boolean {
  const vm = owner === undefined ? undefined : stores.vms.findById(owner);
  if (vm && operations.activeOn(vm.name)) return true;
  switch (kind) {
    case 'directory': {
      const id = basename(name);
      const isVm = [...stores.vms.list(), ...stores.buildVms.list()].some((each) => each.id === id);
      const isKept = stores.snapshots.findById(id) !== undefined || stores.templates.find(id) !== undefined;
      return (
        isVm || isKept || stores.trash.has(id) || stores.ledger.all().some(({ resource }) => resource.name === name)
      );
    }
    case 'memory': {
      const had = vm ?? stores.trash.list().find((each) => each.vm.id === owner)?.vm;
      return had !== undefined && mayHaveMemory(had);
    }
    default:
      return vm !== undefined && !AT_REST.has(vm.phase);
  }
}

async function freeGarbage(host: Host, garbage: Garbage): Promise<void> {
  switch (garbage.kind) {
    case 'ledger': {
      const owner = garbage.owner ?? '';
      await releaseVm(host, { id: owner, name: owner });
      // disks go only with a VM that is neither there nor in the trash
      if (!host.stores.vms.findById(owner) && !host.stores.trash.has(owner)) await discardVm(host, { id: owner });
      return;
    }
    case 'directory':
    case 'memory':
      await rm(garbage.name, { recursive: true, force: true });
      return;
    case 'socket':
      await rm(garbage.name, { force: true });
      return;
    case 'vmm': {
      const owner = garbage.owner ?? '';
      // once it is written down it is freed as every other one
      host.stores.ledger.record(owner, { kind: 'vmm', name: socketOf(garbage) });
      await releaseVm(host, { id: owner, name: owner });
      return;
    }
    case 'tap':
      return; // never ours to touch
  }
}

/** A VMM is named by its socket, which another setting would place elsewhere today. */
function socketOf({ name }: Garbage): string {
  return name.slice(name.indexOf('(') + 1, -1);
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).sort();
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}
