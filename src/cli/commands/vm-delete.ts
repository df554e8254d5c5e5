/** `banger vm delete`: VMs and everything that belongs to them. */
import { defineCommand } from '../command.ts';
import { forEachName, perform } from '../operations.ts';

/** What the operation hands back. */
interface Deleted {
  keptWorkDisk?: { name: string; path: string } | null;
}

export default defineCommand({
  positionals: ['names...'],
  options: {
    force: { type: 'flag', short: 'f', help: 'also one that runs: kill it first' },
    keepWorkDisk: { type: 'flag', help: 'keep the work disk; banger disk list shows it' },
  },
  completes: 'vm',
  description: 'Their disks are gone for good, the work disk too unless it is kept.',
  examples: ['rm web', 'rm --force web db', 'rm web --keep-work-disk'],
  async run(ctx, { args, options: { force, keepWorkDisk } }) {
    return await forEachName(ctx, args.names, async (name) => {
      const query = { ...(force ? { force } : {}), ...(keepWorkDisk ? { keepWorkDisk } : {}) };
      const { result } = await perform(ctx, `delete ${name}`, () =>
        ctx.api.call('deleteVm', { params: { name }, ...(force || keepWorkDisk ? { query } : {}) }),
      );
      const kept = (result as Deleted).keptWorkDisk ?? null;
      ctx.say(`${name} is deleted`);
      if (kept) ctx.say(`Its work disk is kept as ${kept.name}: ${kept.path}`);
      if (kept) ctx.talk(`Use it again with: banger create NAME --work-disk-from ${kept.name}`);
      return { name, deleted: true, keptWorkDisk: kept };
    });
  },
});
