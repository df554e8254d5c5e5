/** `banger gc`: what belongs to no VM any more, and whose it was. */
import type { Garbage } from '../../../api/leftover.ts';
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  options: {
    dryRun: { type: 'flag', short: 'n', help: 'only say what there is' },
    disks: { type: 'flag', help: 'also delete disks of VMs of which there is no record' },
  },
  description:
    'The daemon frees by itself what it knows of; this finds the rest. What only looks like ours is shown and left alone.',
  examples: ['gc --dry-run', 'gc'],
  async run(ctx, { options }) {
    const body = { ...(options.dryRun ? { dryRun: true } : {}), ...(options.disks ? { disks: true } : {}) };
    const { result } = await perform(ctx, 'gc', () => ctx.api.call('collectGarbage', { body }));
    return result as Garbage[];
  },
  print(found, ctx, options) {
    if (found.length === 0) return 'Nothing is left over';
    const rows = found.map((each) => [each.kind, fate(each, options.dryRun), each.name, each.whose]);
    if (found.some(({ verdict, freed }) => verdict === 'ask' && !freed)) {
      ctx.talk('Disks are somebody\u2019s data and are deleted only with: banger gc --disks');
    }
    return renderTable(['WHAT', 'FATE', 'NAME', 'WHOSE'], rows, ctx.paint);
  },
});

function fate({ verdict, freed }: Garbage, dryRun: boolean): string {
  if (freed) return 'freed';
  return verdict === 'free' && dryRun ? 'would be freed' : 'left alone';
}
