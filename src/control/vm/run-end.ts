/** How the run of a VM ended whose VMM has gone in good order. */
import { type GuestEnd, judgeGuestEnd } from '../../core/run-end.ts';
import type { VmRecord } from '../../core/vm.ts';
import { readTail, stripControls } from '../../firecracker/console.ts';
import { vmFiles } from '../../storage/layout.ts';
import type { Host } from '../host.ts';

/** End of a console that is looked through for the kernel's last words: a panic's trace fits in. */
const LAST_WORDS_BYTES = 64 * 1024;

export async function guestEnd({ config }: Pick<Host, 'config'>, vm: Pick<VmRecord, 'id'>): Promise<GuestEnd> {
  const { consoleLog } = vmFiles(config.paths.store, vm.id);
  return judgeGuestEnd(stripControls(await readTail(consoleLog, LAST_WORDS_BYTES)));
}
