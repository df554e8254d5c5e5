/** `banger daemon stop`: ends the daemon and leaves the VMs running. */
import type { DaemonStatus } from '../../../api/system.ts';
import { BangerError } from '../../../errors.ts';
import { sleep } from '../../../system/abort.ts';
import { identifyProcess, isAlive } from '../../../system/processes.ts';
import { defineCommand } from '../../command.ts';
import type { Context } from '../../context.ts';
import { ifRunning } from '../../shared/if-running.ts';

/** The daemon finishes or undoes what it is at, which may include a guest on its way down. */
const LIMIT_MS = 30_000;
const POLL_MS = 20;

export default defineCommand({
  description: 'VMs keep running; the next command that needs a daemon starts one, which takes them over.',
  examples: ['daemon stop'],
  async run(ctx) {
    const status = await statusOf(ctx);
    if (!status) {
      ctx.say('No daemon runs.');
      return { stopped: false, pid: null };
    }
    await stopAndWait(ctx, status);
    const { commands } = status;
    if (commands > 0) {
      const which = commands === 1 ? 'A command of `banger exec`' : `${commands} commands of \`banger exec\``;
      ctx.warn(`${which} lost the connection; what does not end by that goes on in its VM, unseen.`);
    }
    const { running } = status.vms;
    ctx.say(running === 0 ? 'The daemon is stopped.' : `The daemon is stopped; VMs that keep running: ${running}`);
    return { stopped: true, pid: status.pid };
  },
});

/** Waits for the process, not for the socket alone: until it has ended, it keeps another one from starting. */
async function stopAndWait(ctx: Context, { pid }: DaemonStatus): Promise<void> {
  const process = await identifyProcess(pid);
  await ctx.runningApi.call('shutdown', {});
  const deadline = performance.now() + LIMIT_MS;
  // another pid is a daemon that somebody started after ours had gone
  while ((process && (await isAlive(process))) || (await statusOf(ctx))?.pid === pid) {
    if (performance.now() > deadline) {
      throw new BangerError('timeout', `The daemon, process ${pid}, still runs after ${LIMIT_MS / 1000} s.`, {
        hint: `kill -KILL ${pid}`,
      });
    }
    await sleep(POLL_MS);
  }
}

function statusOf(ctx: Context): Promise<DaemonStatus | undefined> {
  return ifRunning(ctx.runningApi.call('status', {}));
}
