/** `banger bundle build`: kernel, initrd, modules and root file system made from Debian packages. */
import { resolve } from 'node:path';
import type { Bundle } from '../../../api/bundle.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  options: {
    suite: { type: 'text', short: 's', placeholder: 'name', help: 'Debian suite', default: 'bookworm' },
    name: { type: 'text', placeholder: 'name', help: 'name of the bundle', default: 'debian-SUITE' },
    output: {
      type: 'text',
      short: 'o',
      placeholder: 'dir',
      completes: ['directory'],
      help: 'directory to write it to',
      default: 'one in the bundle store',
    },
    size: { type: 'size', help: 'apparent size of the root file system', default: '2G' },
    force: { type: 'flag', short: 'f', help: 'build again although nothing it is made from has changed' },
  },
  examples: ['bundle build', 'bundle build --suite trixie', 'bundle build --output ./bundle'],
  async run(ctx, { options }) {
    const body = {
      suite: options.suite,
      name: options.name,
      ...(options.output === undefined ? {} : { output: resolve(ctx.terminal.cwd, options.output) }),
      ...(options.size === undefined ? {} : { rootDiskBytes: options.size }),
      ...(options.force ? { force: true } : {}),
    };
    const { result } = await perform(ctx, 'bundle build', () => ctx.api.call('buildBundle', { body }));
    const bundle = result as Bundle;
    ctx.say(`${bundle.name} is ready in ${bundle.directory}`);
    return bundle;
  },
});
