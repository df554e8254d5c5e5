/** `banger image export`: an image as one file, for another machine. */
import { resolve } from 'node:path';
import type { ImageFile } from '../../../api/image.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['name', 'file'],
  completes: { name: ['image'], file: ['file'] },
  description: 'The file is a zstd-compressed tar archive with checksums; one that exists is not replaced.',
  examples: ['image export dev dev.tar.zst'],
  async run(ctx, { args: { name, file } }) {
    const body = { file: resolve(ctx.terminal.cwd, file) };
    const { result } = await perform(ctx, `export ${name}`, () =>
      ctx.api.call('exportImage', { params: { name }, body }),
    );
    const written = result as ImageFile;
    ctx.say(`${name} is in ${written.file} (${formatSize(written.sizeBytes)})`);
    return written;
  },
});
