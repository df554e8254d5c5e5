/** Compares a snapshot with another one, or with the disks as they are: which files were added, removed, changed. */
import { isUtf8 } from 'node:buffer';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { SnapshotDiff } from '../../api/snapshot.ts';
import type { SnapshotRecord } from '../../core/snapshots.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { copyDisk } from '../../storage/clone.ts';
import { checkExt4, readSuperblock } from '../../storage/ext4.ts';
import { diffTrees, type TreeChange } from '../../storage/ext4-diff.ts';
import { type Ext4Tree, openExt4Tree } from '../../storage/ext4-tree.ts';
import { snapshotFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { diskRunner } from '../handover.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { costOfClone } from '../store/space.ts';
import { getSnapshot, newSnapshotId, provisionally, removeDirectory, requireRoom, takeDisks } from './take.ts';

/** Nobody reads more; how many there are beyond is told. */
const MAX_CHANGES = 10_000;

export interface DiffRequest {
  /** name of the other snapshot; the disks as they are without */
  to?: string | undefined;
  pauseOk: boolean;
}

/** Disks of one state. */
interface State {
  rootDisk: string;
  workDisk: string;
  hasWorkDisk: boolean;
}

/** @throws BangerError `not_found`, `corrupt` for a file system that cannot be read, and as `createSnapshot` for disks in use */
export async function diffSnapshot(
  host: Host,
  vmName: string,
  name: string,
  request: DiffRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<SnapshotDiff> {
  const vm = host.stores.vms.get(vmName);
  const from = stateOf(host, getSnapshot(host, vm, name));
  const other = request.to === undefined ? undefined : getSnapshot(host, vm, request.to);
  // what is taken of disks in use, and what has to be put in order before it is read, is of no use afterwards
  const id = newSnapshotId();
  return await provisionally(host, vm, id, async () => {
    const { directory, rootDisk, workDisk } = snapshotFiles(host.config.paths.store, vm.id, id);
    const to = other
      ? stateOf(host, other)
      : { rootDisk, workDisk, ...(await takeDisks(host, vm, id, request.pauseOk, progress, signal)) };
    progress.step('compare', 'comparing files');
    const compared = await compare(host, vm, from, to, join(directory, 'work'), signal);
    await removeDirectory(host, directory);
    return { from: name, to: other?.name ?? null, ...compared };
  });
}

function stateOf({ config }: Pick<Host, 'config'>, { vmId, id, hasWorkDisk }: SnapshotRecord): State {
  const { rootDisk, workDisk } = snapshotFiles(config.paths.store, vmId, id);
  return { rootDisk, workDisk, hasWorkDisk };
}

async function compare(
  host: Host,
  vm: VmRecord,
  from: State,
  to: State,
  work: string,
  signal: AbortSignal,
): Promise<Pick<SnapshotDiff, 'changes' | 'omitted'>> {
  await mkdir(work, { mode: 0o700 });
  const result: Pick<SnapshotDiff, 'changes' | 'omitted'> = { changes: [], omitted: 0 };
  for (const disk of ['root', 'work'] as const) {
    const paths = [from, to].map((state) =>
      disk === 'root' ? state.rootDisk : state.hasWorkDisk ? state.workDisk : undefined,
    );
    if (paths.every((path) => path === undefined)) continue;
    await using before = await openInOrder(host, paths[0], join(work, 'before.ext4'), signal);
    await using after = await openInOrder(host, paths[1], join(work, 'after.ext4'), signal);
    const found = await diffTrees(before, after, MAX_CHANGES - result.changes.length, signal);
    const mount = disk === 'root' ? '' : vm.workDiskMount.replace(/\/$/, '');
    result.changes.push(...found.changes.map((change) => shown(disk, mount, change)));
    result.omitted += found.omitted;
  }
  return result;
}

/** One whose journal was not written back is put in order first, in a copy. */
async function openInOrder(host: Host, path: string | undefined, copy: string, signal: AbortSignal): Promise<Ext4Tree> {
  if (path === undefined) return emptyTree();
  const { kind, name } = await readRootVolume(path);
  if (kind !== 'ext4') {
    throw new BangerError('conflict', `Only ext4 file systems are compared, and the root disk is ${name}.`, {
      hint: 'Make a second VM as it was, and compare files over ssh: banger snapshot restore VM SNAPSHOT',
    });
  }
  if ((await readSuperblock(path)).clean) return await openExt4Tree(path);
  const { runner } = host.system;
  await requireRoom(host, await costOfClone(host, path), `a copy of ${path}, whose journal has to be written back`);
  await rm(copy, { force: true });
  await copyDisk(runner, host.config.programs.cp, path, copy, signal);
  await checkExt4(diskRunner(host), host.config.programs, copy, signal);
  return await openExt4Tree(copy);
}

function emptyTree(): Ext4Tree {
  return {
    root: { inode: 0, kind: 'directory', mark: '' },
    entries: async () => new Map(),
    [Symbol.asyncDispose]: async () => {},
  };
}

function shown(
  disk: 'root' | 'work',
  mount: string,
  { path, change, kind }: TreeChange,
): SnapshotDiff['changes'][number] {
  return { disk, path: `${mount}${readable(path)}`, change, kind };
}

/** Names are bytes: what is no UTF-8 is written as bytes, so that no two names look alike. */
function readable(path: string): string {
  const bytes = Buffer.from(path, 'latin1');
  const escaped = (text: string) => text.replaceAll('\\', '\\\\');
  if (isUtf8(bytes)) return escaped(bytes.toString('utf8'));
  return escaped(path).replace(/[^ -~]/g, (byte) => `\\x${byte.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
