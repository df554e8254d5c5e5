/** Starts the VMs that come up with the host. */
import { toAutostart } from '../../core/restart.ts';
import { messageOf } from '../../errors.ts';
import { readBootId } from '../../system/processes.ts';
import type { Host } from '../host.ts';
import type { Restarts } from './restarts.ts';

/** Key of the boot of this host for which VMs were started. */
const AUTOSTARTED_BOOT = 'autostarted-boot';

/** After a boot of the host, once: a VM that a person stopped since then stays stopped. */
export async function startWithHost(
  host: Pick<Host, 'stores' | 'log'>,
  restarts: Pick<Restarts, 'startNow'>,
  ending: AbortSignal,
): Promise<void> {
  const { vms, settings } = host.stores;
  const current = await readBootId();
  /** those that somebody has started, stopped or deleted since: the ones before them take their time */
  const taken = new Set<string>();
  const unfollow = vms.onChange(({ before, after }) => {
    if (before?.phase !== after?.phase) taken.add((after ?? before)?.id ?? '');
  });
  try {
    for (const { id } of toAutostart(vms.list(), { current, handled: settings.get(AUTOSTARTED_BOOT) })) {
      if (ending.aborted) return; // the next daemon begins again
      const vm = vms.findById(id);
      if (!vm?.autostart || taken.has(id)) continue;
      host.log.info({ vm: vm.name }, 'started with the host');
      await restarts
        .startNow(vm)
        .catch((error) => host.log.error({ vm: vm.name, error: messageOf(error) }, 'autostart'));
    }
  } finally {
    unfollow();
  }
  if (!ending.aborted) settings.set(AUTOSTARTED_BOOT, current);
}
