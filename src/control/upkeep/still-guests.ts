/**
 * What a move of the store means for guests that stand still in it. Memory is told from what took its place by the inodes of its
 * files, which a move changes: templates and the kept VMs of image builds are made again, and snapshots go with their copies.
 */
import { BangerError } from '../../errors.ts';
import { sleep } from '../../system/abort.ts';
import { forgetKeptVm } from '../builds/kept-vm.ts';
import type { Host } from '../host.ts';
import { forgetTemplates } from '../memory/templates.ts';
import { asCopied, hasSaved } from '../snapshots/memory.ts';
import type { StillGuests } from '../store/init.ts';
import { findVmmOf } from '../vmm.ts';

/** One that is being made ready for new VMs is made first; it comes up in a minute or never. */
const GIVE_UP_LIMIT_MS = 90_000;

const LOOK_MS = 100;

type GuestHost = Pick<Host, 'config' | 'stores' | 'system'>;

/** @param limitMs what those that stand ready get to be given up */
export function createStillGuests(host: GuestHost, { limitMs = GIVE_UP_LIMIT_MS } = {}): StillGuests {
  return {
    async giveUp(signal) {
      await forgetTemplates(host, host.stores.templates.list());
      for (const { key, machine } of host.stores.layers.list()) if (machine !== null) await forgetKeptVm(host, key);
      await untilNoneStandsReady(host, limitMs, signal);
    },
    async follow(copy, progress) {
      const before = host.stores.snapshots.list().filter(hasSaved);
      const after = await Promise.all(before.map((snapshot) => asCopied(host, snapshot, copy)));
      for (const { name, vmId, saved } of after) {
        if (saved.files.length > 0) continue;
        const of = host.stores.vms.findById(vmId)?.name ?? `${vmId}, which was deleted`;
        progress.warn(`Nothing can go on from the memory in ${name} of ${of}: its files were changed before.`);
      }
      return () => {
        for (const snapshot of after) host.stores.snapshots.update(snapshot);
      };
    },
  };
}

/** They began as a template, and whoever keeps them gives them up without it; their VMMs have files of the store open. */
async function untilNoneStandsReady(host: GuestHost, limitMs: number, signal: AbortSignal): Promise<void> {
  const { buildVms } = host.stores;
  const until = performance.now() + limitMs;
  while (buildVms.list().length > 0 && performance.now() < until) await sleep(LOOK_MS, signal);
  const vmms = await Promise.all(buildVms.list().map((vm) => findVmmOf(host, vm)));
  if (vmms.every((vmm) => vmm === undefined)) return;
  throw new BangerError('conflict', 'The store cannot move while a guest stands ready for new VMs.', {
    hint: 'See how many do: banger daemon status   They are given up in a minute; then try again.',
  });
}
