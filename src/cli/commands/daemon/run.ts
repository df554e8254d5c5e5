/** `banger daemon run`: this process becomes the daemon. */
import { EXIT_OTHER_DAEMON, ON_DEMAND } from '../../../client/daemon-start.ts';
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';

export default defineCommand({
  data: false,
  description: 'Logs JSON lines to stderr. Ends at SIGTERM or Ctrl-C; VMs keep running.',
  examples: ['daemon run'],
  async run(ctx) {
    const { env } = ctx.terminal;
    const onDemand = env[ON_DEMAND] !== undefined;
    delete env[ON_DEMAND]; // nothing that the daemon starts is started on demand
    try {
      await ctx.terminal.runDaemon();
    } catch (error) {
      // two commands were typed at once: the other one's daemon is as good, and nothing went wrong
      if (!onDemand || !(error instanceof BangerError) || error.details?.otherDaemon !== true) throw error;
      ctx.status = EXIT_OTHER_DAEMON;
    }
  },
});
