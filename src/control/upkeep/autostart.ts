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
  for (const vm of toAutostart(vms.list(), { current, handled: settings.get(AUTOSTARTED_BOOT) })) {
    if (ending.aborted) return; // the next daemon begins again
    host.log.info({ vm: vm.name }, 'started with the host');
    await restarts.startNow(vm).catch((error) => host.log.error({ vm: vm.name, error: messageOf(error) }, 'autostart'));
  }
  if (!ending.aborted) settings.set(AUTOSTARTED_BOOT, current);
}
