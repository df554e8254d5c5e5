/** Handlers for snapshots of VMs. */
import { resolve } from 'node:path';
import type { Host } from '../../control/host.ts';
import { createSnapshot } from '../../control/snapshots/create.ts';
import { diffSnapshot } from '../../control/snapshots/diff.ts';
import { exportSnapshot } from '../../control/snapshots/export.ts';
import { importSnapshot } from '../../control/snapshots/import.ts';
import { copySnapshot } from '../../control/snapshots/new-vm.ts';
import { type Restored, restoreSnapshot, undoRestore } from '../../control/snapshots/restore.ts';
import { deleteSnapshot, getSnapshot } from '../../control/snapshots/take.ts';
import { viewSnapshot, viewSnapshots } from '../../control/snapshots/view.ts';
import type { Life } from '../../control/vm/life.ts';
import { viewVm } from '../../control/vm/view.ts';
import type { Handlers } from '../server.ts';

type SnapshotHandlers = Pick<
  Handlers,
  | 'listSnapshots'
  | 'showSnapshot'
  | 'createSnapshot'
  | 'restoreSnapshot'
  | 'copySnapshot'
  | 'diffSnapshot'
  | 'exportSnapshot'
  | 'importSnapshot'
  | 'deleteSnapshot'
  | 'undoRestore'
>;

export function snapshotHandlers(host: Host, life: Life): SnapshotHandlers {
  const { operations } = host;
  const { vms } = host.stores;
  /** Refused before an operation begins, where it is known by then. */
  const known = (name: string, snapshot: string) => getSnapshot(host, vms.get(name), snapshot);
  const viewRestored = ({ vm, before }: Restored) => ({ vm: viewVm(host, vm), before });
  return {
    listSnapshots: async ({ query }) => await viewSnapshots(host, query.vm),
    showSnapshot: async ({ params: { name, snapshot } }) => await viewSnapshot(host, known(name, snapshot)),
    createSnapshot: async ({ params: { name }, body }) =>
      life.change('snapshot.create', name, async (_actions, progress, signal) => {
        const request = { name: body.name, pauseOk: body.pauseOk ?? false, diskOnly: body.diskOnly ?? false };
        return await viewSnapshot(host, await createSnapshot(host, name, request, progress, signal));
      }),
    restoreSnapshot: async ({ params: { name, snapshot }, body }) => {
      known(name, snapshot);
      const request = { force: body.force ?? false, start: body.start ?? true, diskOnly: body.diskOnly };
      return life.change('snapshot.restore', name, async (actions, progress, signal) =>
        viewRestored(await restoreSnapshot(host, actions, name, snapshot, request, progress, signal)),
      );
    },
    undoRestore: async ({ params: { name }, body }) => {
      const request = { force: body.force ?? false, start: body.start ?? true };
      return life.change('snapshot.undo', name, async (actions, progress, signal) =>
        viewRestored(await undoRestore(host, actions, name, request, progress, signal)),
      );
    },
    copySnapshot: async ({ params: { name, snapshot }, body }) => {
      known(name, snapshot);
      return operations.start({
        kind: 'snapshot.copy',
        target: body.name,
        // an undo makes the disks of a snapshot those of its VM, whose guest would write to them while they are copied
        also: [name],
        run: async (progress, signal) => {
          const wanted = { name: body.name, diskOnly: body.diskOnly ?? false };
          const vm = await copySnapshot(host, name, snapshot, wanted, progress, signal);
          if (vm.phase === 'running') life.adopt(vm);
          return viewVm(host, vm);
        },
      });
    },
    diffSnapshot: async ({ params: { name, snapshot }, body }) => {
      known(name, snapshot);
      const request = { to: body.to, pauseOk: body.pauseOk ?? false };
      return life.change('snapshot.diff', name, (_actions, progress, signal) =>
        diffSnapshot(host, name, snapshot, request, progress, signal),
      );
    },
    exportSnapshot: async ({ params: { name, snapshot }, body }) => {
      known(name, snapshot);
      return life.change('snapshot.export', name, (_actions, progress, signal) =>
        exportSnapshot(host, name, snapshot, resolve(body.file), progress, signal),
      );
    },
    importSnapshot: async ({ body }) =>
      operations.start({
        kind: 'snapshot.import',
        target: body.name,
        run: async (progress, signal) =>
          viewVm(host, await importSnapshot(host, { ...body, file: resolve(body.file) }, progress, signal)),
      }),
    deleteSnapshot: async ({ params: { name, snapshot } }) => {
      known(name, snapshot);
      return life.change('snapshot.delete', name, async () => {
        const vm = vms.get(name);
        await deleteSnapshot(host, vm, getSnapshot(host, vm, snapshot));
        return { vm: name, name: snapshot };
      });
    },
  };
}
