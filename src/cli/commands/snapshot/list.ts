/** `banger snapshot list`: snapshots with when they were taken and what they take. */
import type { Snapshot } from '../../../api/snapshot.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { renderTable } from '../../output/table.ts';
import { listed, NAMES, nameLines } from '../../shared/if-running.ts';

export default defineCommand({
  positionals: ['[name]'],
  options: NAMES,
  completes: { name: ['vm'] },
  description:
    'Oldest first, of one VM or of all. Automatic ones hold what was there before a restore; blocks that snapshots share count ' +
    'for each.',
  examples: ['snapshot list', 'snapshot ls web --json'],
  run: (ctx, { args: { name }, options }) =>
    listed(ctx, options.names, (api) => api.call('listSnapshots', name === undefined ? {} : { query: { vm: name } })),
  print(snapshots, ctx, { names }) {
    if (names) return nameLines(snapshots.map((each) => each.name));
    if (snapshots.length > 0) return renderSnapshots(snapshots, ctx.paint);
    ctx.talk('No snapshots. Take one with: banger snapshot create NAME');
    return '';
  },
});

function renderSnapshots(snapshots: readonly Snapshot[], paint: Paint): string {
  const rows = snapshots.map((each) => [
    each.vm,
    each.name,
    each.createdAt.replace(/\.\d+Z$/, 'Z'),
    `${each.memory ? 'disks, memory' : 'disks'}${each.automatic ? ', automatic' : ''}`,
    formatSize(each.allocatedBytes),
    each.image,
  ]);
  return renderTable(['VM', 'SNAPSHOT', 'TAKEN', 'OF', 'USED', 'IMAGE'], rows, paint);
}
