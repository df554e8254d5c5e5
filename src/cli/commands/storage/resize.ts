/** `banger storage resize`: a larger image for the store, while VMs run. */
import type { Storage } from '../../../api/storage.ts';
import { parseSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { renderStorage } from './show.ts';

export default defineCommand({
  positionals: ['size'],
  description: 'VMs may run. The file system only grows.',
  examples: ['storage resize 100G'],
  async run(ctx, { args }) {
    const body = { sizeBytes: parseSize(args.size) };
    const { result } = await perform(ctx, 'resize storage', () => ctx.api.call('resizeStorage', { body }));
    return result as Storage;
  },
  print: (storage, ctx) => renderStorage(storage, ctx.paint),
});
