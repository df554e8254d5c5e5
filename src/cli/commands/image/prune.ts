/** `banger image prune`: room taken by layers and templates, which make builds and starts faster and are made again when missing. */
import type { ImagePruned } from '../../../api/image.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  options: {
    keepSize: { type: 'size', help: 'remove the longest unused until no more than this is left, e.g. 10G' },
    unusedFor: { type: 'duration', help: 'remove what no build or start used for so long, e.g. 7d' },
    all: { type: 'flag', short: 'a', help: 'remove every layer and template' },
    dryRun: { type: 'flag', short: 'n', help: 'say what would go and remove nothing' },
  },
  description:
    'Without options it removes the layers from whose base no image that exists was built, and templates that no VM can start ' +
    'from any more. Images stay.',
  examples: ['image prune', 'image prune --keep-size 10G --dry-run', 'image prune --unused-for 7d'],
  async run(ctx, { options: { keepSize, unusedFor, all, dryRun } }) {
    const body = {
      keepBytes: keepSize,
      unusedForMs: unusedFor,
      ...(all ? { all } : {}),
      ...(dryRun ? { dryRun } : {}),
    };
    const { result } = await perform(ctx, 'prune layers', () => ctx.api.call('pruneImages', { body }));
    return result as ImagePruned;
  },
  print({ removed, removedBytes, kept, keptBytes, blobs, blobBytes, templates, templateBytes, dryRun }, ctx) {
    const layers = removed.length === 1 ? 'layer' : 'layers';
    ctx.talk(
      `${dryRun ? 'Would remove' : 'Removed'} ${removed.length} ${layers} (${formatSize(removedBytes)}), ` +
        `${dryRun ? 'would keep' : 'kept'} ${kept} (${formatSize(keptBytes)})`,
    );
    if (blobs > 0) {
      ctx.talk(`${dryRun ? 'Would remove' : 'Removed'} ${blobs} layers of OCI images (${formatSize(blobBytes)})`);
    }
    if (templates > 0) {
      ctx.talk(
        `${dryRun ? 'Would remove' : 'Removed'} ${templates} ${templates === 1 ? 'template' : 'templates'} (${formatSize(templateBytes)})`,
      );
    }
    if (removed.length === 0) return '';
    const rows = removed.map(({ key, base, step, sizeBytes, usedAt }) => [
      key.slice(0, 12),
      formatSize(sizeBytes),
      usedAt.slice(0, 16).replace('T', ' '),
      base,
      step,
    ]);
    return renderTable(['LAYER', 'SIZE', 'LAST USED', 'BASE', 'STEP'], rows, ctx.paint);
  },
});
