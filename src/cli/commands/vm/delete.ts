/** `banger vm delete`: VMs into the trash, or for good with everything that belongs to them. */
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';

/** What the operation hands back. */
interface Deleted {
  /** how long it can be had back, in `ms` */
  keptForMs: number;
  keptWorkDisk: { name: string; path: string } | null;
  snapshots: number;
}

export default defineCommand({
  positionals: ['names...'],
  options: {
    force: { type: 'flag', short: 'f', help: 'also one that runs: kill it first' },
    now: { type: 'flag', help: 'delete for good, disks and all, past the trash' },
    keepWorkDisk: { type: 'flag', help: 'delete for good, but for the work disk; banger disk list shows it' },
  },
  completes: { names: ['vm'] },
  description: 'Deleted VMs stay in the trash for a day (limits.trash_for): `banger vm undelete NAME` brings one back.',
  examples: ['rm web', 'rm --force web db', 'rm --now scratch', 'rm web --keep-work-disk'],
  async run(ctx, { args, options: { force, now, keepWorkDisk } }) {
    return await forEachName(ctx, args.names, async (name) => {
      const query = { ...(force ? { force } : {}), ...(now ? { now } : {}), ...(keepWorkDisk ? { keepWorkDisk } : {}) };
      const { result } = await perform(ctx, `delete ${name}`, () =>
        ctx.api.call('deleteVm', { params: { name }, ...(force || now || keepWorkDisk ? { query } : {}) }),
      );
      const { keptForMs = 0, keptWorkDisk = null, snapshots = 0 } = (result ?? {}) as Partial<Deleted>;
      ctx.say(`${name} is deleted`);
      if (snapshots > 0)
        ctx.talk(`${snapshots === 1 ? 'Its snapshot goes' : `Its ${snapshots} snapshots go`} with it.`);
      if (keptForMs > 0) {
        ctx.talk(`For ${formatDuration(keptForMs)} it can be had back with: banger vm undelete ${name}`);
      }
      if (keptWorkDisk) {
        ctx.say(`Its work disk is kept as ${keptWorkDisk.name}: ${keptWorkDisk.path}`);
        ctx.talk(`Use it again with: banger create NAME --work-disk-from ${keptWorkDisk.name}`);
      }
      return { name, deleted: true, keptForMs, keptWorkDisk, snapshots };
    });
  },
});
