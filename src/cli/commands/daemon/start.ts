/** `banger daemon start`: what every other command does on demand, on its own. */
import { defineCommand } from '../../command.ts';

export default defineCommand({
  examples: ['daemon start'],
  async run(ctx) {
    const status = await ctx.api.call('status', {});
    ctx.say(`The daemon runs as process ${status.pid} and answers on ${status.socket}`);
    return status;
  },
});
