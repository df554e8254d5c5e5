/** Work disks that outlive their VM: kept at its deletion, given to a new one, deleted at last. */
import { rm } from 'node:fs/promises';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { cloneFile } from '../../storage/clone.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { readSuperblock } from '../../storage/ext4.ts';
import { findKept, type KeptDisk, keepDisk, takeKept, takenError } from '../../storage/kept-disks.ts';
import { vmFiles } from '../../storage/layout.ts';
import { pathExists } from '../../system/files.ts';
import { takeBack } from '../handover.ts';
import type { Host } from '../host.ts';

/** Where a new VM's work disk comes from. */
export interface WorkDiskSource {
  /** absent for a file that stays where it is */
  kept?: KeptDisk;
  path: string;
  /** bytes */
  size: number;
}

/** Puts the work disk of a VM that is about to be deleted among the kept ones, as `name`; undefined when it has none. */
export async function keepWorkDisk(host: Host, vm: VmRecord, name: string): Promise<KeptDisk | undefined> {
  const { store } = host.config.paths;
  const { workDisk } = vmFiles(store, vm.id);
  if (!(await pathExists(workDisk))) return undefined;
  const kept = await keepDisk(store, workDisk, name);
  await takeBack(host, kept.path);
  return kept;
}

/** Name of the kept disk that is meant by what a person gave for a work disk; undefined for a file, or nothing. */
export function keptNameOf(from: string | undefined): string | undefined {
  return from?.includes('/') ? undefined : from;
}

/**
 * Keeps a kept disk for one who is about to take or delete it, until it is disposed of. Before that its name stands for
 * this disk and no other: the place of one that went could be another's by then.
 * @throws BangerError `conflict` when somebody else does that
 */
export function claimKept({ stores }: Pick<Host, 'stores'>, name: string, who: string): Disposable {
  const [other] = stores.keptHolds.of(name);
  if (other !== undefined) throw takenError(name, other);
  return stores.keptHolds.hold(name, who);
}

/**
 * @param from name of a kept disk, see `claimKept`, or absolute path of an ext4 image
 * @throws BangerError `not_found`, or `invalid_input` when it holds no ext4 file system
 */
export async function findWorkDisk(host: Host, from: string): Promise<WorkDiskSource> {
  const name = keptNameOf(from);
  const kept = name === undefined ? undefined : await getKept(host, name);
  const path = kept?.path ?? from;
  if (!path.startsWith('/')) {
    throw new BangerError('invalid_input', `"${from}" is neither the name of a kept disk nor an absolute path.`, {
      hint: 'See the kept ones: banger disk list --kept',
    });
  }
  if (!(await pathExists(path))) {
    throw new BangerError('not_found', `There is no file ${path}.`, {
      hint: 'See the kept disks: banger disk list --kept',
    });
  }
  try {
    await readSuperblock(path);
  } catch (error) {
    const hint = 'A work disk is the image of an ext4 file system, as mke2fs makes it.';
    throw new BangerError('invalid_input', `${path} cannot be a work disk: ${messageOf(error)}`, {
      cause: error,
      hint,
    });
  }
  return { ...(kept ? { kept } : {}), path, size: await apparentBytes(path) };
}

/** Gives a new VM its work disk: a kept one moves, see `settleKept`; of any other file it gets a copy. */
export async function adoptWorkDisk(
  host: Host,
  vm: VmRecord,
  source: WorkDiskSource,
  signal: AbortSignal,
): Promise<void> {
  const { workDisk } = vmFiles(host.config.paths.store, vm.id);
  if (source.kept) await takeKept(source.kept, workDisk);
  else await cloneFile(host.system.runner, host.config.programs.cp, source.path, workDisk, vm.workDiskBytes, signal);
}

/** Once the VM is there for good, the kept disk has only the VM's name. */
export async function settleKept(source: WorkDiskSource): Promise<void> {
  if (source.kept) await rm(source.kept.path, { force: true });
}

/** @throws BangerError `not_found`, or `conflict` when a VM is about to get it */
export async function deleteKept(host: Host, name: string): Promise<{ name: string }> {
  using _claim = claimKept(host, name, 'its deletion');
  const kept = await getKept(host, name);
  await rm(kept.path, { force: true });
  return { name };
}

async function getKept(host: Host, name: string): Promise<KeptDisk> {
  const kept = await findKept(host.config.paths.store, name);
  if (kept) return kept;
  const isVm = host.stores.vms.find(name) !== undefined;
  throw new BangerError('not_found', `There is no kept work disk named "${name}".`, {
    hint: isVm
      ? `${name} is a VM; its disks go with it: banger rm ${name}`
      : 'See the kept ones: banger disk list --kept   Disks are kept by: banger rm --keep-work-disk NAME',
  });
}
