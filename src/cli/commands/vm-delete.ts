/** `banger vm delete`: VMs and everything that belongs to them. */
import { defineCommand } from '../command.ts';
import { forEachName, perform } from '../operations.ts';

export default defineCommand({
  positionals: ['names...'],
  options: { force: { type: 'flag', short: 'f', help: 'also one that runs: kill it first' } },
  completes: 'vm',
  description: 'Their disks are gone for good, the work disk too.',
  examples: ['rm web', 'rm --force web db'],
  async run(ctx, { args, options: { force } }) {
    return await forEachName(ctx, args.names, async (name) => {
      await perform(ctx, `delete ${name}`, () =>
        ctx.api.call('deleteVm', { params: { name }, ...(force ? { query: { force } } : {}) }),
      );
      ctx.say(`${name} is deleted`);
      return { name, deleted: true };
    });
  },
});
