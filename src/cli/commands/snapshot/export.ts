/** `banger snapshot export`: a snapshot as one file, for another machine. */
import { resolve } from 'node:path';
import type { SnapshotFile } from '../../../api/snapshot.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['name', 'snapshot', 'file'],
  completes: { name: ['vm'], snapshot: ['snapshot'], file: ['file'] },
  description:
    'The file is a zstd-compressed tar archive with checksums; one that exists is not replaced. It holds everything that is on the ' +
    'disks, secrets too, and neither kernel nor initrd: `banger snapshot import` needs the image it was made with.',
  examples: ['snapshot export web before-upgrade web.tar.zst'],
  async run(ctx, { args: { name, snapshot, file } }) {
    const body = { file: resolve(ctx.terminal.cwd, file) };
    const { result } = await perform(ctx, `export ${snapshot}`, () =>
      ctx.api.call('exportSnapshot', { params: { name, snapshot }, body }),
    );
    const written = result as SnapshotFile;
    ctx.say(`${snapshot} of ${name} is in ${written.file} (${formatSize(written.sizeBytes)})`);
    return written;
  },
});
