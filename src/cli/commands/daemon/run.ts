/** `banger daemon run`: this process becomes the daemon. */
import { EXIT_OTHER_DAEMON, EXIT_START_REFUSED, ON_DEMAND } from '../../../client/daemon-start.ts';
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
      if (!(error instanceof BangerError)) throw error;
      // two commands were typed at once: the other one's daemon is as good, and nothing went wrong
      if (onDemand && error.details?.otherDaemon === true) {
        ctx.status = EXIT_OTHER_DAEMON;
        return;
      }
      if (error.details?.startRefused !== true) throw error;
      ctx.fail(error);
      ctx.status = EXIT_START_REFUSED;
    }
  },
});
