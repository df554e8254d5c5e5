/** `banger operation cancel`: stops a long action and undoes what it did so far. */
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';

export default defineCommand({
  positionals: ['id'],
  completes: { id: ['operation'] },
  examples: ['operation cancel 3f2a9c1e'],
  async run(ctx, { args: { id } }) {
    const answer = await ctx.api.call('cancelOperation', { params: { id } });
    if (!answer.cancelled) {
      const why = answer.watchers > 0 ? `${answer.watchers} other clients wait for it` : 'it has ended already';
      throw new BangerError('conflict', `Operation ${id} was not cancelled: ${why}.`, {
        hint: `banger operation show ${id}`,
      });
    }
    ctx.say(`${id} is being undone; watch it with: banger operation wait ${id}`);
    return answer;
  },
});
