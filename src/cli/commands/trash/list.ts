/** `banger trash list`: what can still be had back, and for how long. */
import { formatDuration, formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { listed, NAMES, nameLines } from '../../shared/if-running.ts';

export default defineCommand({
  options: NAMES,
  examples: ['trash list', 'trash list --json'],
  run: (ctx, { options }) => listed(ctx, options.names, (api) => api.call('listTrash', {})),
  print(trashed, ctx, options) {
    if (options.names) return nameLines(trashed.map(({ name }) => name));
    if (trashed.length === 0) {
      ctx.talk('The trash is empty.');
      return '';
    }
    const now = Date.now();
    const rows = trashed.map((each) => [
      each.name,
      each.id,
      `${formatDuration(Math.max(0, now - Date.parse(each.deletedAt)))} ago`,
      formatDuration(Math.max(0, Date.parse(each.purgedAt) - now)),
      formatSize(each.diskBytes),
    ]);
    return renderTable(['NAME', 'ID', 'DELETED', 'KEPT FOR', 'ON HOST'], rows, ctx.paint);
  },
});
