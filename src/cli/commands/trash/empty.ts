/** `banger trash empty`: deleted VMs gone for good. */
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['[names...]'],
  completes: { names: ['trashed-vm'] },
  description: 'All of them, or those with these names or ids. Their disks are gone then.',
  examples: ['trash empty', 'trash empty web'],
  async run(ctx, { args: { names } }) {
    const { result } = await perform(ctx, 'empty the trash', () =>
      ctx.api.call('emptyTrash', { body: names.length === 0 ? {} : { names } }),
    );
    const gone = result as { id: string; name: string }[];
    ctx.say(gone.length === 0 ? 'The trash was empty' : `Gone for good: ${gone.map(({ name }) => name).join(', ')}`);
    return gone;
  },
});
