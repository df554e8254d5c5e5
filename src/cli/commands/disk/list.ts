/** `banger disk list`: disks with the size guests see and what they take of the host. */
import type { Disk } from '../../../api/disk.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { listed, NAMES, nameLines } from '../../shared/if-running.ts';

export default defineCommand({
  positionals: ['[name]'],
  options: { ...NAMES, kept: { type: 'flag', help: 'only work disks that outlived their VM' } },
  completes: { name: ['vm'] },
  description: 'Disks are sparse: they take what was written to them. Blocks that clones share count for each clone.',
  examples: ['disk list', 'disk list web', 'disk ls --kept', "disk ls --json | jq 'map(.allocatedBytes) | add'"],
  async run(ctx, { args: { name }, options: { names, kept } }) {
    const disks = await listed(ctx, names, (api) =>
      name === undefined ? api.call('listDisks', {}) : api.call('showDisks', { params: { name } }),
    );
    return kept ? disks.filter(({ role }) => role === 'kept') : disks;
  },
  print(disks, ctx, { names, kept }) {
    if (names) return nameLines(disks.map((disk) => disk.vm ?? disk.name));
    if (disks.length > 0) return renderDisks(disks, ctx.paint);
    ctx.talk(kept ? 'No work disk was kept.' : 'No disks yet. They come with the first VM: banger run NAME');
    return '';
  },
});

export function renderDisks(disks: readonly Disk[], paint: Parameters<typeof renderTable>[2]): string {
  const rows = disks.map((disk) => [
    disk.vm ?? disk.name ?? '-',
    disk.role,
    formatSize(disk.apparentBytes),
    formatSize(disk.allocatedBytes),
    disk.mount ?? '-',
    disk.path,
  ]);
  return renderTable(['NAME', 'DISK', 'SIZE', 'USED', 'IN THE GUEST', 'FILE'], rows, paint);
}
