/** Moves the store into an XFS image whose clones cost nothing, grows that image, and moves the store back out. */
import { mkdir } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import type { Storage, StorageInit } from '../../api/storage.ts';
import { requireNoMemory } from '../../core/saved-memory.ts';
import { BangerError } from '../../errors.ts';
import { requireSpace } from '../../storage/clone.ts';
import { apparentBytes, growFile } from '../../storage/disk.ts';
import { sharesBlocks, spaceOf, usedBytes } from '../../storage/file-system.ts';
import {
  copyTree,
  isMountPoint,
  MIN_IMAGE_BYTES,
  makeStoreImage,
  mountStoreImage,
  unmountStoreImage,
} from '../../storage/store-image.ts';
import { pathExists } from '../../system/files.ts';
import { findProgram } from '../../system/host-facts.ts';
import { formatSize, GIB, MIB } from '../../units.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { findVmmOf } from '../vmm.ts';
import {
  enterState,
  finishGrowing,
  movePlaces,
  type StoreImage,
  storeImage,
  switchBack,
  switchToImage,
  undoEmptying,
  undoFilling,
} from './image.ts';
import { showStorage } from './show.ts';

/** Guests that stand still in the store. They are known by the inodes of their files, and copies have others. */
export interface StillGuests {
  /** Gives up those that are made again. */
  giveUp(signal: AbortSignal): Promise<void>;
  /**
   * Looks at a copy of the store, when it is complete.
   * @returns writes down what the others are known by there, in the transaction that has the copy be the store
   */
  follow(copy: string, progress: Progress): Promise<() => void>;
}

/** Without a size: the image is sparse and takes what it holds. */
const DEFAULT_IMAGE_BYTES = 50 * GIB;

/** What XFS needs for its own: log, tables, and room to work in. */
const OVERHEAD_BYTES = 256 * MIB;

/** @throws BangerError `conflict` when a VM runs or the store needs no image, `host_unprepared` without room or right */
export async function initStorage(
  host: Host,
  guests: StillGuests,
  request: StorageInit,
  progress: Progress,
  signal: AbortSignal,
): Promise<Storage> {
  const { store, state } = host.config.paths;
  progress.step('check', 'checking the host');
  const image = request.path ?? join(state, 'store.xfs');
  const sizeBytes = Math.ceil((request.sizeBytes ?? DEFAULT_IMAGE_BYTES) / MIB) * MIB;
  await requireNoImage(host, image);
  await requireNoneRunning(host);
  await requirePrograms(host, 'mkfs.xfs', 'mount', 'umount', 'losetup', 'xfs_growfs');
  const used = await usedBytes(store);
  await requireFit(image, sizeBytes, used);
  progress.step('give-up', 'giving templates up, which are made again');
  await guests.giveUp(signal);
  const { filling } = movePlaces(host);
  enterState(host, image, 'filling');
  try {
    progress.step('make-image', `making an XFS of ${formatSize(sizeBytes)}`);
    await makeStoreImage(host.system.runner, image, sizeBytes, { uid: host.system.uid, gid: process.getgid?.() ?? 0 });
    await mkdir(filling, { recursive: true, mode: 0o700 });
    await mountStoreImage(host.system.privileged, image, filling);
    progress.step('copy', `copying ${formatSize(used)} into it`);
    await copyTree(host.system.runner, host.config.programs.cp, store, filling, signal);
    const write = await guests.follow(filling, progress);
    signal.throwIfAborted();
    // what keeps it from being moved is found out while it can be undone
    await unmountStoreImage(host.system.privileged, filling);
    enterLast(host, image, 'switching', write);
  } catch (error) {
    progress.step('undo', 'undoing it');
    await undoFilling(host, image);
    throw error;
  }
  progress.step('switch', 'putting it in the place of the store');
  await switchToImage(host, image);
  return await showStorage(host);
}

/** Online: VMs go on. */
export async function resizeStorage(host: Host, sizeBytes: number, progress: Progress): Promise<Storage> {
  const image = requireImage(host);
  const now = await apparentBytes(image.name);
  const wanted = Math.ceil(sizeBytes / MIB) * MIB;
  if (wanted < now) {
    throw new BangerError(
      'invalid_input',
      `The store has ${formatSize(now)} and cannot shrink to ${formatSize(wanted)}: XFS only grows.`,
      { hint: 'It takes only what it holds. For a smaller one: banger storage init --undo, then init again.' },
    );
  }
  await requirePrograms(host, 'losetup', 'xfs_growfs');
  progress.step('grow', `growing the store to ${formatSize(wanted)}`);
  enterState(host, image.name, 'growing');
  try {
    await growFile(image.name, wanted);
  } catch (error) {
    enterState(host, image.name, 'mounted');
    throw error;
  }
  await finishGrowing(host, image.name);
  return await showStorage(host);
}

/** The store becomes a plain directory again. */
export async function undoStorage(
  host: Host,
  guests: StillGuests,
  progress: Progress,
  signal: AbortSignal,
): Promise<Storage> {
  const image = requireImage(host);
  await requireNoneRunning(host);
  const { store, emptying } = movePlaces(host);
  await requireSpace(dirname(store), await usedBytes(store), 'the store outside of its image');
  progress.step('give-up', 'giving templates up, which are made again');
  await guests.giveUp(signal);
  enterState(host, image.name, 'emptying');
  try {
    progress.step('copy', 'copying the store out of its image');
    await mkdir(emptying, { recursive: true, mode: 0o700 });
    await copyTree(host.system.runner, host.config.programs.cp, store, emptying, signal);
    const write = await guests.follow(emptying, progress);
    signal.throwIfAborted();
    await unmountStoreImage(host.system.privileged, store);
    enterLast(host, image.name, 'switching-back', write);
  } catch (error) {
    progress.step('undo', 'undoing it');
    await undoEmptying(host, image.name);
    throw error;
  }
  progress.step('switch', 'putting it in the place of the image');
  await switchBack(host, image.name);
  return await showStorage(host);
}

/** From here on the copy is the store, and everything on record is of that. */
function enterLast(host: Host, image: string, state: 'switching' | 'switching-back', write: () => void): void {
  host.stores.atomically(() => {
    write();
    enterState(host, image, state);
  });
}

async function requireNoImage(host: Host, path: string): Promise<void> {
  const { store } = host.config.paths;
  const existing = storeImage(host);
  if (existing) {
    throw new BangerError('conflict', `The store lies in ${existing.name} already.`, {
      hint: 'Make it larger with: banger storage resize SIZE   or undo it with: banger storage init --undo',
    });
  }
  if (await sharesBlocks(store)) {
    throw new BangerError('conflict', `The file system of ${store} shares blocks already: clones cost nothing.`, {
      hint: 'There is nothing to do. See: banger storage show',
    });
  }
  if (await isMountPoint(store)) {
    throw new BangerError('conflict', `${store} is a mount point, which cannot be moved aside.`, {
      hint: 'Set paths.store to a directory below it.',
    });
  }
  if (!isAbsolute(path) || path === store || path.startsWith(`${store}/`)) {
    throw new BangerError(
      'invalid_input',
      `The image cannot be ${path}: it takes an absolute path outside of ${store}.`,
    );
  }
  if (await pathExists(path)) {
    throw new BangerError('conflict', `${path} exists already.`, { hint: 'Choose another file with --path.' });
  }
  if (!(await pathExists(dirname(path)))) {
    throw new BangerError('not_found', `There is no directory ${dirname(path)}.`, {
      hint: `Make it: mkdir -p ${dirname(path)}`,
    });
  }
}

async function requireNoneRunning(host: Host): Promise<void> {
  // its memory belongs to these very files
  for (const vm of host.stores.vms.list()) requireNoMemory(vm, 'moved with the store');
  for (const { vm } of host.stores.trash.list()) requireNoMemory(vm, 'moved with the store');
  const running: string[] = [];
  for (const vm of host.stores.vms.list()) {
    if (await findVmmOf(host, vm)) running.push(vm.name);
  }
  if (running.length === 0) return;
  throw new BangerError('conflict', `The store cannot move while VMs run: ${running.join(', ')}.`, {
    hint: `Stop them first: banger stop ${running.join(' ')}`,
  });
}

function requireImage(host: Host): StoreImage {
  const image = storeImage(host);
  if (image) return image;
  throw new BangerError('conflict', 'The store lies in a plain directory and not in an image.', {
    hint: 'Put it into one with: banger storage init',
  });
}

async function requirePrograms(host: Host, ...programs: string[]): Promise<void> {
  for (const program of programs) {
    const found = await findProgram(program, host.system.env);
    if (found.found) continue;
    const of = /xfs/.test(program) ? 'xfsprogs' : 'mount and util-linux';
    throw new BangerError('host_unprepared', `The program ${program} is not installed (looked ${found.why}).`, {
      hint: `Install it: the packages ${of} have it.`,
    });
  }
}

async function requireFit(image: string, sizeBytes: number, used: number): Promise<void> {
  const least = Math.max(MIN_IMAGE_BYTES, used + OVERHEAD_BYTES);
  if (sizeBytes < least) {
    throw new BangerError(
      'invalid_input',
      `An image of ${formatSize(sizeBytes)} is too small: the store needs at least ${formatSize(least)}.`,
      { hint: `Ask for more: banger storage init --size ${Math.ceil(least / GIB)}G` },
    );
  }
  await requireSpace(dirname(image), used + OVERHEAD_BYTES, 'the image of the store');
  const { sizeBytes: hostBytes } = await spaceOf(dirname(image));
  if (sizeBytes <= hostBytes) return;
  throw new BangerError(
    'invalid_input',
    `An image of ${formatSize(sizeBytes)} could outgrow the file system it lies on, which has ${formatSize(hostBytes)}.`,
    { hint: `Ask for less: banger storage init --size ${Math.max(1, Math.floor(hostBytes / 2 / GIB))}G` },
  );
}
