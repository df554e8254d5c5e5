/** Handlers for changes in the life of a VM, its trash, and what belongs to nobody. */

import { DEFAULT_WAIT_MS } from '../../api/addresses.ts';
import type { Host } from '../../control/host.ts';
import { collectGarbage } from '../../control/upkeep/collect-garbage.ts';
import { renameVm } from '../../control/vm/rename.ts';
import { setVm } from '../../control/vm/set.ts';
import { emptyTrash, purgedAt, restoreVm } from '../../control/vm/trash.ts';
import { viewVm, viewVmNow } from '../../control/vm/view.ts';
import { parseWaitedFor, waitForVm } from '../../control/vm/wait.ts';
import type { TrashedVm } from '../../state/trash.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { vmFiles } from '../../storage/layout.ts';
import type { Handlers } from '../server.ts';

type LifeHandlers = Pick<
  Handlers,
  'setVm' | 'renameVm' | 'waitVm' | 'listTrash' | 'undeleteVm' | 'emptyTrash' | 'collectGarbage'
>;

export function lifeHandlers(host: Host): LifeHandlers {
  const { operations } = host;
  const { vms } = host.stores;
  return {
    setVm: async ({ params: { name }, body: { dryRun, ...wanted } }) => {
      vms.get(name);
      return operations.start({
        kind: 'vm.set',
        target: name,
        run: async (progress) => {
          const { vm, changes } = await setVm(host, name, wanted, dryRun ?? false, progress);
          return { vm: viewVm(host, vm), changes };
        },
      });
    },
    renameVm: async ({ params: { name }, body }) => {
      vms.get(name);
      return operations.start({
        kind: 'vm.rename',
        target: name,
        run: async (progress) => {
          const { vm, hostname } = await renameVm(host, name, body.name, progress);
          return { vm: viewVm(host, vm), hostname };
        },
      });
    },
    waitVm: async ({ params: { name }, query, signal }) => {
      const wanted = parseWaitedFor(query.for ?? 'ssh');
      return await viewVmNow(host, await waitForVm(host, name, wanted, query.timeoutMs ?? DEFAULT_WAIT_MS, signal));
    },
    listTrash: async () => await Promise.all(host.stores.trash.list().map((each) => viewTrashed(host, each))),
    undeleteVm: async ({ params: { name }, body }) => {
      const { vm, lostAddress } = restoreVm(host, name, body.as);
      return { vm: viewVm(host, vm), lostAddress };
    },
    emptyTrash: async ({ body }) =>
      operations.start({
        kind: 'trash.empty',
        target: 'the trash',
        run: async (progress) =>
          (await emptyTrash(host, body.names ?? [], progress)).map(({ vm }) => ({ id: vm.id, name: vm.name })),
      }),
    collectGarbage: async ({ body }) =>
      operations.start({
        kind: 'host.gc',
        target: 'the host',
        run: async (progress) =>
          await collectGarbage(host, { dryRun: body.dryRun ?? false, disks: body.disks ?? false }, progress),
      }),
  };
}

async function viewTrashed(host: Host, trashed: TrashedVm) {
  const { vm, deletedAt } = trashed;
  const files = vmFiles(host.config.paths.store, vm.id);
  const sizes = await Promise.all([files.rootDisk, files.workDisk].map((path) => allocatedBytes(path).catch(() => 0)));
  return {
    id: vm.id,
    name: vm.name,
    image: vm.image,
    address: vm.address,
    deletedAt,
    purgedAt: purgedAt(host, trashed),
    diskBytes: sizes.reduce((sum, bytes) => sum + bytes, 0),
  };
}
