/** Which terminal a login takes whose own one the guest may not know. */
import type { VmRecord } from '../../core/vm.ts';
import { askGuest } from '../../guest/ask.ts';
import { terminalCommand } from '../../guest/command.ts';
import { expiry } from '../../system/abort.ts';
import type { Host } from '../host.ts';

/** Somebody waits for a prompt: a guest that is slower logs in with whatever terminal it is. */
const ASK_LIMIT_MS = 3000;

/** Names in terminfo; what a guest says becomes a variable of a program on this host. */
const NAME = /^[\w.+-]{1,64}$/;

/** The terminal itself where the guest knows it, else one that it knows; null when it does not say. */
export async function terminalFor(host: Pick<Host, 'guests'>, vm: VmRecord, term: string): Promise<string | null> {
  const asked = host.guests
    .get(vm)
    .then((connection) => askGuest(connection, terminalCommand(term), ASK_LIMIT_MS))
    .then(({ code, stdout }) => (code === 0 && NAME.test(stdout) ? stdout : null))
    .catch(() => null);
  return (await Promise.race([asked, expiry(ASK_LIMIT_MS)])) ?? null;
}
