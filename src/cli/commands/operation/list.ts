/** `banger operation list`: what runs now and what ran lately. */
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { listed, nameLines } from '../../shared/if-running.ts';

export default defineCommand({
  options: { ids: { type: 'flag', help: 'print only ids, one a line, and start no daemon' } },
  examples: ['operation list', 'operation ls --json'],
  run: (ctx, { options }) => listed(ctx, options.ids, (api) => api.call('listOperations', {})),
  print(operations, ctx, options) {
    if (options.ids) return nameLines(operations.map(({ id }) => id));
    if (operations.length === 0) {
      ctx.talk('No operations yet.');
      return '';
    }
    const now = Date.now();
    const rows = operations.map((operation) => {
      const begun = Date.parse(operation.createdAt);
      const ended = operation.finishedAt === null ? now : Date.parse(operation.finishedAt);
      return [
        operation.id,
        operation.kind,
        operation.target,
        operation.state,
        formatDuration(Math.max(ended - begun, 0)),
        operation.error?.message ?? operation.step ?? '',
      ];
    });
    return renderTable(['ID', 'KIND', 'TARGET', 'STATE', 'TIME', 'WHAT'], rows, ctx.paint);
  },
});
