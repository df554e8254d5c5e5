/** `banger image list`: what VMs can be made from, besides bundles. */
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { listed, NAMES, nameLines } from '../../shared/if-running.ts';

export default defineCommand({
  options: NAMES,
  examples: ['image list', 'image ls --json'],
  description:
    'SIZE is what the root file system has room for, ON DISK what the image takes here. WARM counts the templates that VMs ' +
    'start from: `banger image warm --list` has them in detail, and those of bundles.',
  run: (ctx, { options }) => listed(ctx, options.names, (api) => api.call('listImages', {})),
  print(images, ctx, options) {
    if (options.names) return nameLines(images.map(({ name }) => name));
    if (images.length === 0) {
      ctx.talk('No images yet. Bring one in with: banger image import FILE');
      return '';
    }
    const rows = images.map((image) => [
      image.name,
      image.arch,
      formatSize(image.sizeBytes),
      formatSize(image.allocatedBytes),
      String(image.usedBy.length),
      image.templates === 0 ? '-' : String(image.templates),
      image.createdAt.slice(0, 16).replace('T', ' '),
      image.problem === null
        ? image.base
        : { text: `cannot be used: ${image.problem}`, paint: (text: string) => ctx.paint('red', text) },
    ]);
    return renderTable(['NAME', 'ARCH', 'SIZE', 'ON DISK', 'VMS', 'WARM', 'CREATED', 'BASE'], rows, ctx.paint);
  },
});
