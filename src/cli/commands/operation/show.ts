/** `banger operation show`: one long action, running or done. */
import { defineCommand } from '../../command.ts';
import { renderFields } from '../../output/table.ts';

export default defineCommand({
  positionals: ['id'],
  completes: { id: ['operation'] },
  examples: ['operation show 3f2a9c1e'],
  run: (ctx, { args: { id } }) => ctx.api.call('showOperation', { params: { id } }),
  print(operation, ctx) {
    const fields: [string, string | null | undefined][] = [
      ['id', operation.id],
      ['kind', operation.kind],
      ['target', operation.target],
      ['state', operation.state],
      ['step', operation.step],
      ['created', operation.createdAt],
      ['finished', operation.finishedAt],
      ['error', operation.error?.message],
      ['hint', operation.error?.hint],
    ];
    const shown = fields.filter((field): field is [string, string] => typeof field[1] === 'string');
    return renderFields(shown, ctx.paint);
  },
});
