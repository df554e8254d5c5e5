/** `banger vm logs`: what the guest wrote to its console, or the VMM to its log. */
import { pipeline } from 'node:stream/promises';
import { BangerError, messageOf } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import { plainText } from '../../output/plain-text.ts';

export default defineCommand({
  positionals: ['name'],
  options: {
    follow: { type: 'flag', short: 'f', help: 'go on with what comes, until Ctrl-C' },
    lines: { type: 'count', short: 'n', help: 'only the last lines' },
    previous: { type: 'flag', short: 'p', help: 'of the run before the last start' },
    vmm: { type: 'flag', help: 'the log of the process that runs the VM instead' },
  },
  completes: { name: ['vm'] },
  data: false,
  examples: ['logs web', 'logs web -n 20 -f', 'logs web --vmm', 'logs web --previous'],
  async run(ctx, { args, options }) {
    if (options.follow) ctx.terminal.endWithReader?.();
    const stream = await ctx.api.stream('logs', {
      params: { name: args.name },
      query: {
        ...(options.follow ? { follow: true } : {}),
        lines: options.lines,
        ...(options.previous ? { previous: true } : {}),
        ...(options.vmm ? { source: 'vmm' } : {}),
      },
    });
    try {
      await pipeline(stream.setEncoding('utf8'), plainly, ctx.terminal.stdout, { end: false });
    } catch (error) {
      throw new BangerError('daemon_unreachable', `The daemon went away: ${messageOf(error)}.`, {
        cause: error,
        hint: 'banger daemon status',
      });
    }
  },
});

/** The daemon leaves out what VMs' logs hold of terminal control; what is told here is plain whatever the daemon does. */
async function* plainly(chunks: AsyncIterable<string>): AsyncGenerator<string> {
  for await (const chunk of chunks) yield plainText(chunk);
}
