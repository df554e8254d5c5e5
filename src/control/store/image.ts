/**
 * Where the move of the store into its image stands. The ledger has one entry for the image, whose state is written
 * before each step; `recoverStore` goes forward or back from any of them before the daemon looks at a VM.
 */
import { mkdir, rename, rm, rmdir } from 'node:fs/promises';
import { BangerError, messageOf } from '../../errors.ts';
import { HOST_OWNER, type Resource, type StoreImageState } from '../../state/ledger.ts';
import { growMountedImage, mountStoreImage, unmountStoreImage } from '../../storage/store-image.ts';
import { pathExists } from '../../system/files.ts';
import { endProcess, findLeftPrograms } from '../../system/processes.ts';
import type { Host } from '../host.ts';

export type StoreImage = Extract<Resource, { kind: 'store-image' }>;

export type StoreHost = Pick<Host, 'config' | 'stores' | 'system' | 'log'>;

/** Directories beside the store while it moves. */
export interface MovePlaces {
  store: string;
  /** the image's mount point while it is filled */
  filling: string;
  /** the plain directory that becomes the store again */
  emptying: string;
  /** the plain directory that was the store, until it is deleted */
  before: string;
}

export function movePlaces({ config }: Pick<StoreHost, 'config'>): MovePlaces {
  const { store } = config.paths;
  return { store, filling: `${store}.filling`, emptying: `${store}.emptying`, before: `${store}.before` };
}

/** The image the store lies in or moves into. */
export function storeImage({ stores }: Pick<StoreHost, 'stores'>): StoreImage | undefined {
  const found = stores.ledger.of(HOST_OWNER).find((resource) => resource.kind === 'store-image');
  return found?.kind === 'store-image' ? found : undefined;
}

export function enterState({ stores }: Pick<StoreHost, 'stores'>, image: string, state: StoreImageState): void {
  stores.ledger.record(HOST_OWNER, { kind: 'store-image', name: image, state });
}

/**
 * Brings the store to where it belongs, at the daemon's start: mounts it after a reboot, finishes or undoes a move that
 * was cut off.
 * @throws BangerError `host_unprepared` when the image cannot be mounted: without it every VM would look deleted
 */
export async function recoverStore(host: StoreHost): Promise<void> {
  const image = storeImage(host);
  if (!image) return;
  try {
    await STEPS[image.state](host, image.name);
  } catch (error) {
    throw new BangerError(
      'host_unprepared',
      `The store lies in ${image.name}, which could not be brought to ${host.config.paths.store}: ${messageOf(error)}`,
      {
        cause: error,
        hint:
          error instanceof BangerError && error.hint
            ? error.hint
            : `Try by hand: mount -o loop ${image.name} ${host.config.paths.store}`,
      },
    );
  }
}

const STEPS: Record<StoreImageState, (host: StoreHost, image: string) => Promise<void>> = {
  filling: undoFilling,
  switching: switchToImage,
  mounted: useImage,
  growing: finishGrowing,
  emptying: undoEmptying,
  'switching-back': switchBack,
};

/** Nothing is in the image that is not still in the store. */
export async function undoFilling(host: StoreHost, image: string): Promise<void> {
  const { filling } = movePlaces(host);
  await endWriters(filling, image);
  await unmountStoreImage(host.system.privileged, filling);
  await removeEmpty(filling);
  await rm(image, { force: true });
  host.stores.ledger.strike('store-image', image);
}

/** Everything is in the image: it takes the store's place. */
export async function switchToImage(host: StoreHost, image: string): Promise<void> {
  const { store, filling, before } = movePlaces(host);
  enterState(host, image, 'switching');
  await unmountStoreImage(host.system.privileged, filling);
  await removeEmpty(filling);
  if (!(await pathExists(before))) await rename(store, before);
  await mkdir(store, { recursive: true, mode: 0o700 });
  await mountStoreImage(host.system.privileged, image, store);
  enterState(host, image, 'mounted');
  await rm(before, { recursive: true, force: true });
}

async function useImage(host: StoreHost, image: string): Promise<void> {
  const { store, before } = movePlaces(host);
  await mkdir(store, { recursive: true, mode: 0o700 });
  await mountStoreImage(host.system.privileged, image, store);
  await rm(before, { recursive: true, force: true }); // what a daemon that died had not deleted yet
}

export async function finishGrowing(host: StoreHost, image: string): Promise<void> {
  await useImage(host, image);
  await growMountedImage(host.system.privileged, image, movePlaces(host).store);
  enterState(host, image, 'mounted');
}

/** The image still has everything. */
export async function undoEmptying(host: StoreHost, image: string): Promise<void> {
  const { emptying } = movePlaces(host);
  await endWriters(emptying);
  await rm(emptying, { recursive: true, force: true });
  await useImage(host, image);
  enterState(host, image, 'mounted');
}

/** Everything is in the plain directory: it takes the store's place, and the image goes. */
export async function switchBack(host: StoreHost, image: string): Promise<void> {
  const { store, emptying } = movePlaces(host);
  enterState(host, image, 'switching-back');
  await unmountStoreImage(host.system.privileged, store);
  if (await pathExists(emptying)) {
    await removeEmpty(store);
    await rename(emptying, store);
  }
  await rm(image, { force: true });
  host.stores.ledger.strike('store-image', image);
}

/** A copy outlives the daemon that began it. */
async function endWriters(...paths: string[]): Promise<void> {
  const writers = await findLeftPrograms((argv) => argv.some((word) => paths.includes(word.replace(/\/$/, ''))));
  for (const writer of writers) await endProcess(writer, { graceMs: 0 });
}

/** A mount point that has nothing mounted; refuses to take anything else away. */
async function removeEmpty(directory: string): Promise<void> {
  if (await pathExists(directory)) await rmdir(directory);
}
