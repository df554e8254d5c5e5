/** Which user the programs of a VM run as, and what is the user's own before they begin. */
import { rm } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import type { VmRecord } from '../core/vm.ts';
import { chooseUser, isInRange } from '../core/vm-users.ts';
import { createDiskReader, createDiskRunner, type DiskRunner } from '../storage/disk-runner.ts';
import { vmFiles } from '../storage/layout.ts';
import {
  giveFile,
  handOverDirectory,
  isOpenToAll,
  letEnter,
  makeFileFor,
  makeReadOnly,
  sealDirectory,
} from '../storage/ownership.ts';
import { shareFile } from '../storage/shared-files.ts';
import { hasProcesses } from '../system/processes.ts';
import type { Host } from './host.ts';

type UserHost = Pick<Host, 'config' | 'stores' | 'system'>;

/** User of a VM on this host; undefined where it runs as the daemon's. */
export function userOf({ system }: Pick<Host, 'system'>, { user }: Pick<VmRecord, 'user'>): number | undefined {
  return user !== null && isInRange(system.vmUsers.range, user) ? user : undefined;
}

/**
 * A user for a VM that has none; no await may come between this and taking it.
 * @returns null where VMs run as the daemon's user
 */
export function freeUser({ stores, system }: Pick<Host, 'stores' | 'system'>, vmId: string): number | null {
  const { range } = system.vmUsers;
  if (!range) return null;
  const others = [...stores.vms.list(), ...stores.buildVms.list(), ...stores.trash.list().map(({ vm }) => vm)];
  const taken = others.filter(({ id }) => id !== vmId).flatMap(({ user }) => (user === null ? [] : [user]));
  return chooseUser(range, vmId, new Set(taken));
}

/**
 * Gives a VM on record that does not run its user and its files: one of an earlier banger has none, and another banger of
 * this host may have come to run programs as the same one.
 */
export async function settleUser(host: UserHost, vm: VmRecord): Promise<VmRecord> {
  if (!host.system.vmUsers.range) return vm;
  const known = userOf(host, vm);
  if (known === undefined || (await hasProcesses(known))) {
    host.stores.vms.update(vm.id, { user: anotherUser(host, vm) });
  }
  const settled = host.stores.vms.findById(vm.id) ?? vm;
  await handOver(host, settled);
  return settled;
}

function anotherUser(host: UserHost, vm: VmRecord): number | null {
  const { range } = host.system.vmUsers;
  if (!range || vm.user === null || !isInRange(range, vm.user)) return freeUser(host, vm.id);
  const others = [...host.stores.vms.list(), ...host.stores.buildVms.list()].flatMap(({ user }) => user ?? []);
  return chooseUser(range, vm.id, new Set(others));
}

/** Makes a VM's directory one that its user's programs may work in, and its files the user's. */
async function handOver(host: UserHost, vm: Pick<VmRecord, 'id' | 'user'>): Promise<void> {
  const user = userOf(host, vm);
  if (user !== undefined) await handOverDirectory(vmFiles(host.config.paths.store, vm.id).directory, user);
}

/** Makes one file the VM's user's. */
export async function handOverFile(host: UserHost, vm: Pick<VmRecord, 'user'>, path: string): Promise<void> {
  const user = userOf(host, vm);
  if (user === undefined) return;
  await letEnter(dirname(path), user);
  await giveFile(path, user);
}

/** Lets the VM's user read one file, which others read too and none of them may write. */
export async function letReadFile(host: UserHost, vm: Pick<VmRecord, 'user'>, path: string): Promise<void> {
  const user = userOf(host, vm);
  if (user === undefined) return;
  await letEnter(dirname(path), user);
  await makeReadOnly(path);
}

/** Path of a file in a VM's directory, or below it, as its VMM has to name it. */
export function asVmmNamesIt(
  host: Pick<Host, 'config' | 'system'>,
  vm: Pick<VmRecord, 'id' | 'user'>,
  path: string,
): string {
  if (userOf(host, vm) === undefined) return path;
  return relative(vmFiles(host.config.paths.store, vm.id).directory, path);
}

/** Makes an empty file that the VM's VMM writes, which may create none where its guest runs. */
export async function makeFileForVmm(host: UserHost, vm: Pick<VmRecord, 'user'>, path: string): Promise<void> {
  const user = userOf(host, vm);
  await rm(path, { force: true });
  if (user === undefined) return;
  await letEnter(dirname(path), user);
  await makeFileFor(path, user);
}

/** Makes a file the daemon's alone that a VM's programs have worked with. */
export async function takeBack({ system }: Pick<Host, 'system'>, path: string): Promise<void> {
  if (system.vmUsers.range) await giveFile(path, 0);
}

/** From now on the VM's VMM creates no files: it is about to meet its guest. */
export async function sealAgainstVmm(host: UserHost, vm: Pick<VmRecord, 'id' | 'user'>): Promise<void> {
  if (userOf(host, vm) !== undefined) await sealDirectory(vmFiles(host.config.paths.store, vm.id).directory);
}

/**
 * A file as the VM's VMM may name it: by its own path where everybody may read it, otherwise by a name in the VM's
 * directory, under which it is put there.
 */
export async function withinReach(
  host: UserHost,
  vm: Pick<VmRecord, 'id' | 'user'>,
  path: string,
  isProgram = false,
): Promise<string> {
  if (userOf(host, vm) === undefined || (await isOpenToAll(path, isProgram))) return path;
  const { store } = host.config.paths;
  const name = `use-${basename(path)}`;
  const target = join(vmFiles(store, vm.id).directory, name);
  await shareFile(host.system.runner, host.config.programs.cp, { store, source: path, target, isProgram });
  return isProgram ? `./${name}` : name;
}

/** Runs e2fsprogs on the disks of a VM, or on a file that is no VM's. */
export function diskRunner({ system }: Pick<Host, 'system'>, vm?: Pick<VmRecord, 'user'>): DiskRunner {
  const { runner, env, vmUsers: users } = system;
  return createDiskRunner({ runner, env, users, user: vm ? (userOf({ system }, vm) ?? null) : null });
}

/** Reads file systems without changing them. */
export function diskReader({ system }: Pick<Host, 'system'>): DiskRunner {
  const { runner, env, vmUsers: users } = system;
  return createDiskReader({ runner, env, users });
}
