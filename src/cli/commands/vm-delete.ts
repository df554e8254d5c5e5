/** `banger vm delete`: VMs into the trash, or for good with everything that belongs to them. */
import { formatDuration } from '../../units.ts';
import { defineCommand } from '../command.ts';
import { forEachName, perform } from '../operations.ts';

export default defineCommand({
  positionals: ['names...'],
  options: {
    force: { type: 'flag', short: 'f', help: 'also one that runs: kill it first' },
    now: { type: 'flag', help: 'delete for good, disks and all, past the trash' },
  },
  completes: 'vm',
  description: 'Deleted VMs stay in the trash for a day (limits.trash_for): `banger vm undelete NAME` brings one back.',
  examples: ['rm web', 'rm --force web db', 'rm --now scratch'],
  async run(ctx, { args, options: { force, now } }) {
    return await forEachName(ctx, args.names, async (name) => {
      const query = { ...(force ? { force } : {}), ...(now ? { now } : {}) };
      const { result } = await perform(ctx, `delete ${name}`, () =>
        ctx.api.call('deleteVm', { params: { name }, ...(force || now ? { query } : {}) }),
      );
      const { keptForMs = 0 } = (result ?? {}) as { keptForMs?: number };
      ctx.say(`${name} is deleted`);
      if (keptForMs > 0) {
        ctx.talk(`For ${formatDuration(keptForMs)} it can be had back with: banger vm undelete ${name}`);
      }
      return { name, deleted: true, keptForMs };
    });
  },
});
