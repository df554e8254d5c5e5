/** `banger top`: what VMs use, on the whole screen, in the order one likes. */
import { readLines } from '../../../client/watch.ts';
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';

export default defineCommand({
  options: { interval: { type: 'duration', help: 'time between two samples', default: '2s' } },
  data: false,
  description:
    'Keys: c CPU, m memory, d disk, n network and a name sort, r turns the order round, left and right choose the ' +
    'column, up and down scroll, q leaves.',
  examples: ['top', 'top --interval 5s'],
  async run(ctx, { options }) {
    const { stdin, stdout, env } = ctx.terminal;
    if (stdin.isTTY !== true || stdout.isTTY !== true || env.TERM === 'dumb') {
      throw new BangerError('invalid_input', 'There is no terminal here that banger top could draw on.', {
        hint: 'banger stats --watch',
      });
    }
    const leave = new AbortController();
    void ctx.interrupts().first.then(() => leave.abort());
    const query = options.interval === undefined ? {} : { intervalMs: options.interval };
    const frames = readLines(ctx.api, 'watchStats', { query }, leave.signal);
    const { runTop } = await import('../../shared/top-session.ts');
    await runTop({ stdin, stdout, paint: ctx.paint }, frames, leave);
  },
});
