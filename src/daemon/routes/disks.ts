/** Handlers for disks and the store. */

import { deleteKept } from '../../control/disks/keep.ts';
import { resizeDisks } from '../../control/disks/resize.ts';
import { allDisks, disksOf } from '../../control/disks/view.ts';
import type { Host } from '../../control/host.ts';
import { initStorage, resizeStorage, undoStorage } from '../../control/store/init.ts';
import { showStorage } from '../../control/store/show.ts';
import { createStillGuests } from '../../control/upkeep/still-guests.ts';
import type { Handlers } from '../server.ts';

type DiskHandlers = Pick<
  Handlers,
  | 'listDisks'
  | 'showDisks'
  | 'resizeDisks'
  | 'deleteDisk'
  | 'showStorage'
  | 'initStorage'
  | 'resizeStorage'
  | 'undoStorage'
>;

/** What operations on the store are about; no VM can have this name. */
const STORE = 'the store';

export function diskHandlers(host: Host): DiskHandlers {
  const { operations } = host;
  const { vms } = host.stores;
  const guests = createStillGuests(host);
  return {
    listDisks: async () => await allDisks(host),
    showDisks: async ({ params }) => await disksOf(host, vms.get(params.name)),
    resizeDisks: async ({ params: { name }, body }) => {
      vms.get(name);
      return operations.start({
        kind: 'disk.resize',
        target: name,
        run: (progress, signal) => resizeDisks(host, name, body, progress, signal),
      });
    },
    deleteDisk: async ({ params }) => await deleteKept(host, params.name),
    showStorage: async () => await showStorage(host),
    // everything else needs the store where it is
    initStorage: async ({ body }) =>
      operations.start({
        kind: 'storage.init',
        target: STORE,
        exclusive: true,
        run: (progress, signal) => initStorage(host, guests, body, progress, signal),
      }),
    resizeStorage: async ({ body }) =>
      operations.start({
        kind: 'storage.resize',
        target: STORE,
        run: (progress) => resizeStorage(host, body.sizeBytes, progress),
      }),
    undoStorage: async () =>
      operations.start({
        kind: 'storage.undo',
        target: STORE,
        exclusive: true,
        run: (progress, signal) => undoStorage(host, guests, progress, signal),
      }),
  };
}
