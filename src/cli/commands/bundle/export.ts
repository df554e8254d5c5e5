/** `banger bundle export`: a bundle as one file, for machines that cannot build one. */
import { resolve } from 'node:path';
import type { BundleFile } from '../../../api/bundle.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { bundleRef } from '../../shared/bundle-ref.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['bundle', 'file'],
  completes: { bundle: ['bundle', 'directory'], file: ['file'] },
  description: 'The file is a zstd-compressed tar archive; one that exists is not replaced.',
  examples: ['bundle export debian-bookworm bookworm.tar.zst', 'bundle export ./my-bundle /tmp/my.tar.zst'],
  async run(ctx, { args }) {
    const body = { name: bundleRef(ctx, args.bundle), file: resolve(ctx.terminal.cwd, args.file) };
    const { result } = await perform(ctx, `export ${args.bundle}`, () => ctx.api.call('exportBundle', { body }));
    const written = result as BundleFile;
    ctx.say(`${written.name} is in ${written.file} (${formatSize(written.sizeBytes)})`);
    return written;
  },
});
