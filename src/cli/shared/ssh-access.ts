/** The way into a VM by ssh, which the daemon tells when the VM is up. */
import { LETS_GO_ON, waitText } from '../../api/operation-words.ts';
import type { SshAccess } from '../../api/vm.ts';
import type { Context } from '../context.ts';

/** How long a person waits before it is said what for. */
const SAY_AFTER_MS = 2000;

/** @param term what the guest may not know of the terminal */
export async function askSshAccess(ctx: Context, name: string, term?: string): Promise<SshAccess> {
  const timer = setTimeout(() => void sayWhatIsWaitedFor(ctx, name), SAY_AFTER_MS);
  try {
    return await ctx.api.call('sshAccess', { params: { name }, ...(term === undefined ? {} : { query: { term } }) });
  } finally {
    clearTimeout(timer);
  }
}

/** What lets it go on is what was asked for; anything else comes before that. */
async function sayWhatIsWaitedFor(ctx: Context, name: string): Promise<void> {
  const known = await ctx.api.call('listOperations', {}).catch(() => []);
  const other = known.find(
    ({ target, state, kind }) => target === name && state === 'running' && !LETS_GO_ON.has(kind),
  );
  if (other) ctx.talk(`${waitText(name, other)}; the login begins then`);
}
