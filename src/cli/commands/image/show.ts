/** `banger image show`: one image in full, with who needs it. */
import type { ImageDetail } from '../../../api/image.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { renderFields } from '../../output/table.ts';

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['image'] },
  examples: ['image show dev', 'image show dev --json'],
  run: (ctx, { args: { name } }) => ctx.api.call('showImage', { params: { name } }),
  print(image, ctx) {
    if (image.problem !== null) ctx.warn(`${image.name} cannot be used: ${image.problem}`);
    return renderImage(image, ctx.paint);
  },
});

function renderImage(image: ImageDetail, paint: Paint): string {
  const list = (names: readonly string[]) => (names.length === 0 ? null : names.join(' '));
  const fields: [string, string | null][] = [
    ['name', image.name],
    ['id', image.id],
    ['arch', image.arch],
    ['base', image.base],
    ['created', image.createdAt],
    ['size', `${formatSize(image.sizeBytes)}, ${formatSize(image.allocatedBytes)} on disk`],
    ['digest', image.digest],
    ['root disk', image.rootfs],
    ['kernel', image.kernel],
    ['initrd', image.initrd],
    ['packages', image.packages === null ? null : `${image.packageCount} in ${image.packages}`],
    ['recipe', image.recipe === null ? null : JSON.stringify(image.recipe)],
    ['used by', list(image.usedBy)],
    ['in the trash', list(image.trashed)],
    ['templates', image.templates === 0 ? null : `${image.templates}, see: banger image warm --list`],
    ['layers', image.layers === 0 ? null : String(image.layers)],
  ];
  return renderFields(
    fields.filter((field): field is [string, string] => field[1] !== null),
    paint,
  );
}
