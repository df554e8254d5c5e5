/**
 * Watches the room that the disks of running VMs share. They take what their guests write, and together they may ask for
 * more than there is: the VM that takes the most is held before nothing is left, and goes on when there is room again.
 */
import { type Growth, greediest, isNear, nextLookMs, roomToGoOn } from '../../core/store-room.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { spaceOf } from '../../storage/file-system.ts';
import { vmFiles } from '../../storage/layout.ts';
import { formatSize } from '../../units.ts';
import type { Host } from '../host.ts';
import { placesOfStore } from '../store/space.ts';
import { letVmGoOn, pauseVm } from '../vm/pause.ts';
import { WATCH_INTERVAL_MS } from './host-watch.ts';

/** Between two VMs that go on: the first may need the room that the second would take. */
const NEXT_GOES_ON_MS = 1000;

export interface RoomWatch {
  /** Looks once where that is due; called every `WATCH_INTERVAL_MS`, and by itself in between while room is short. */
  look(): Promise<void>;
  close(): void;
}

/** VMs that matter here, and the file systems that their disks are on. */
interface Watched {
  /** those whose guests can write */
  active: VmRecord[];
  /** those that are held, in the order in which they were */
  held: VmRecord[];
  places: string[];
}

/** Where there is much room, others may use it up too. */
const LONGEST_LOOK_MS = 30_000;

type RoomHost = Pick<Host, 'config' | 'stores' | 'system' | 'operations' | 'log' | 'now'>;

/** @param freeIn bytes that may still be written to the file system of a directory */
export function createRoomWatch(
  host: RoomHost,
  freeIn: (place: string) => Promise<number> = async (place) => (await spaceOf(place)).freeBytes,
): RoomWatch {
  const { vms } = host.stores;
  const { minFreeBytes } = host.config.storage;
  /** made anew after any change of a record */
  let watched: Watched | undefined;
  /** bytes on the host of each VM when there was room enough, or when another VM was held */
  let marks: Map<string, number> | undefined;
  let lastFree: number | undefined;
  let timer: NodeJS.Timeout | undefined;
  /** until then, on the clock of `performance`, nothing could use up what is left; a change of a record is looked at sooner */
  let dueMs = 0;
  let busy = false;
  let closed = false;
  const unfollow = vms.onChange(() => {
    watched = undefined;
  });

  function list(): Watched {
    const all = vms.list();
    const held = all.filter((vm) => vm.phase === 'running' && vm.paused !== null);
    return {
      active: all.filter((vm) => ['starting', 'running', 'stopping'].includes(vm.phase) && !held.includes(vm)),
      held: held.sort((a, b) => String(a.paused?.at).localeCompare(String(b.paused?.at))),
      places: placesOfStore(host),
    };
  }

  async function measure(active: readonly VmRecord[]): Promise<Map<string, number>> {
    return new Map(await Promise.all(active.map(async (vm) => [vm.id, await bytesOf(host, vm)] as const)));
  }

  /** @returns when to look again, in `ms` */
  async function lookOnce({ active, held, places }: Watched): Promise<number> {
    const rooms = await Promise.all(places.map(async (place) => ({ place, free: await freeIn(place) })));
    const least = rooms.reduce((a, b) => (b.free < a.free ? b : a));
    const left = least.free - minFreeBytes;
    const shrinks = lastFree !== undefined && least.free < lastFree;
    lastFree = least.free;
    if (left < 0) {
      const now = await measure(active);
      const before = marks ?? now;
      const grown = active.map(
        ({ id }): Growth => ({ id, bytes: (now.get(id) ?? 0) - (before.get(id) ?? now.get(id) ?? 0) }),
      );
      const found = greediest(grown, least.free);
      const vm = active.find(({ id }) => id === found?.id);
      if (vm && found) await restrain(vm, found.bytes, least);
      // what the others took until now was not what filled it
      marks = vm || !marks ? now : new Map([...now, ...marks]);
      return active.length > 0 ? nextLookMs(left, shrinks || !!vm, LONGEST_LOOK_MS) : WATCH_INTERVAL_MS;
    }
    marks = isNear(left) ? await measure(active) : undefined;
    const next = held[0];
    if (next && least.free >= roomToGoOn(minFreeBytes)) {
      await release(next);
      return NEXT_GOES_ON_MS;
    }
    return active.length > 0 ? nextLookMs(left, shrinks, LONGEST_LOOK_MS) : WATCH_INTERVAL_MS;
  }

  /** One that runs is held; what it did so far is its owner's to keep. One that begins or ends is cut off. */
  async function restrain(
    { id }: VmRecord,
    tookBytes: number,
    { place, free }: { place: string; free: number },
  ): Promise<void> {
    // looking took its time: the start of one that runs by now is not to be cut off
    const vm = vms.findById(id);
    if (!vm) return;
    const took = `the disks of ${vm.name} were the ones that grew, by ${formatSize(tookBytes)}`;
    const why = `${formatSize(free)} are left in ${place}, less than storage.min_free (${formatSize(minFreeBytes)}), and ${took}.`;
    host.log.warn(
      { vm: vm.name, phase: vm.phase, free, tookBytes },
      'the room for disks is short: it has to stop writing',
    );
    const active = host.operations.activeOn(vm.name);
    if (vm.phase !== 'running') {
      if (active) host.operations.abort(active.id, noRoom(active.kind, vm.name, why));
      return;
    }
    const until = `when ${formatSize(roomToGoOn(minFreeBytes))} are free`;
    try {
      await pauseVm(host, vm, { at: host.now().toISOString(), why, until });
    } catch (error) {
      // the next one that takes much has its turn, and this one again when it goes on taking
      host.log.error({ vm: vm.name, error: messageOf(error) }, 'it could not be paused');
    }
  }

  async function release(vm: VmRecord): Promise<void> {
    await letVmGoOn(host, vm);
    host.log.info({ vm: vm.name }, 'there is room for disks again: it goes on');
  }

  return {
    async look() {
      if (busy || closed) return;
      busy = true;
      clearTimeout(timer);
      try {
        if (watched && performance.now() < dueMs) return;
        watched ??= list();
        const idle = watched.active.length === 0 && watched.held.length === 0;
        if (idle || (minFreeBytes === 0 && watched.held.length === 0)) {
          marks = lastFree = undefined;
          return;
        }
        const nextMs = await lookOnce(watched);
        // this is called again before that is over
        dueMs = performance.now() + nextMs - WATCH_INTERVAL_MS;
        if (nextMs >= WATCH_INTERVAL_MS || closed) return;
        timer = setTimeout(() => {
          this.look().catch((error) =>
            host.log.error({ error: messageOf(error) }, 'looking after room for disks failed'),
          );
        }, nextMs).unref();
      } finally {
        busy = false;
      }
    },
    close() {
      closed = true;
      clearTimeout(timer);
      unfollow();
    },
  };
}

/** What a VM's files take that its guest or VMM can make larger. */
async function bytesOf({ config }: Pick<Host, 'config'>, { id }: VmRecord): Promise<number> {
  const { rootDisk, workDisk, consoleLog, vmmLog } = vmFiles(config.paths.store, id);
  const sizes = await Promise.all(
    [rootDisk, workDisk, consoleLog, vmmLog].map((path) => allocatedBytes(path).catch(() => 0)), // not made yet, or without one
  );
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

function noRoom(kind: string, name: string, why: string): BangerError {
  const what = kind.split('.').at(-1) ?? kind;
  return new BangerError('host_unprepared', `The ${what} of ${name} was cut off: ${why}`, {
    hint: 'See what takes the room: banger storage show   and make some: banger trash empty   banger image prune   banger gc',
  });
}
