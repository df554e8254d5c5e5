/** `banger storage init`: the store in an XFS image, or with --undo back in its directory. */

import { resolve } from 'node:path';
import type { Storage } from '../../../api/storage.ts';
import { BangerError } from '../../../errors.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { renderStorage } from './show.ts';

export default defineCommand({
  options: {
    size: { type: 'size', help: 'size of the file system; its file takes only what it holds', default: '50G' },
    path: {
      type: 'text',
      placeholder: 'file',
      completes: ['file'],
      help: 'where the file goes',
      default: 'store.xfs in the state directory',
    },
    undo: { type: 'flag', help: 'move the disks back out and delete the file' },
  },
  description:
    'For hosts whose file system cannot share blocks, such as ext4: disks move to an XFS in a file, where the clone for ' +
    'a new VM takes no time and no space. No VM may run meanwhile. The daemon mounts it again after a reboot.',
  examples: ['storage init', 'storage init --size 200G --path /data/banger.xfs', 'storage init --undo'],
  async run(ctx, { options: { size, path, undo } }) {
    if (undo && (size !== undefined || path !== undefined)) {
      throw new BangerError('invalid_input', '--undo takes neither --size nor --path.', {
        hint: 'banger storage init --undo',
      });
    }
    const body = {
      sizeBytes: size,
      ...(path === undefined ? {} : { path: resolve(path) }),
    };
    const { result } = await perform(ctx, undo ? 'undo storage' : 'init storage', () =>
      undo ? ctx.api.call('undoStorage', {}) : ctx.api.call('initStorage', { body }),
    );
    const storage = result as Storage;
    if (storage.image) ctx.say(`The store is in ${storage.image.path} (${formatSize(storage.image.sizeBytes)})`);
    else ctx.say('The store is a plain directory');
    return storage;
  },
  print: (storage, ctx) => renderStorage(storage, ctx.paint),
});
