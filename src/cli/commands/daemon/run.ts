/** `banger daemon run`: this process becomes the daemon. */
import { defineCommand } from '../../command.ts';

export default defineCommand({
  data: false,
  description: 'Logs JSON lines to stderr. Ends at SIGTERM or Ctrl-C; VMs keep running.',
  examples: ['daemon run'],
  async run(ctx) {
    await ctx.terminal.runDaemon();
  },
});
