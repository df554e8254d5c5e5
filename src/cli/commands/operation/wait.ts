/** `banger operation wait`: joins a long action that another command began. */
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['id'],
  completes: { id: ['operation'] },
  description: 'Ctrl-C ends the waiting only. The exit status is that of the operation.',
  examples: ['operation wait 3f2a9c1e'],
  async run(ctx, { args: { id } }) {
    const operation = await ctx.api.call('showOperation', { params: { id } });
    const label = `${operation.kind} ${operation.target}`;
    // whoever only waits must not undo it: it counts as another client's
    const ended = await perform(ctx, label, async () => ({ ...operation, joined: true }));
    ctx.say(`${label} has succeeded`);
    return ended;
  },
});
