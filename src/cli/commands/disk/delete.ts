/** `banger disk delete`: kept work disks, for good. */
import { defineCommand } from '../../command.ts';
import { forEachName } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['names...'],
  completes: { names: ['kept-disk'] },
  description: 'Names are those of kept disks in banger disk list. Disks of VMs go with their VM.',
  examples: ['disk rm web', 'disk delete web web-2'],
  async run(ctx, { args }) {
    return await forEachName(ctx, args.names, async (name) => {
      await ctx.api.call('deleteDisk', { params: { name } });
      ctx.say(`The kept disk ${name} is deleted`);
      return { name, deleted: true };
    });
  },
});
