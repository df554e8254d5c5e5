/** `banger bundle use`: the bundle VMs boot from when none is named. */
import { defineCommand } from '../../command.ts';

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['bundle'] },
  description: 'VMs that exist already keep the bundle they were made from.',
  examples: ['bundle use debian-trixie'],
  async run(ctx, { args }) {
    const bundle = await ctx.api.call('useBundle', { body: { name: args.name } });
    ctx.say(`${bundle.name} is the default now`);
    return bundle;
  },
});
