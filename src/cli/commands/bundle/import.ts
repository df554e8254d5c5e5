/** `banger bundle import`: a bundle made elsewhere, seen only once every checksum was right. */
import { resolve } from 'node:path';
import type { Bundle } from '../../../api/bundle.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['file'],
  completes: { file: ['file'] },
  options: {
    name: { type: 'text', placeholder: 'name', help: 'name to give it', default: 'the one in its bundle.json' },
    force: { type: 'flag', short: 'f', help: 'replace a bundle of that name' },
  },
  description: "The file is what `banger bundle export` wrote, or a bundle's directory, which is copied.",
  examples: ['bundle import bookworm.tar.zst', 'bundle import ./my-bundle --name mine --force'],
  async run(ctx, { args, options }) {
    const body = {
      source: resolve(ctx.terminal.cwd, args.file),
      name: options.name,
      ...(options.force ? { force: true } : {}),
    };
    const { result } = await perform(ctx, `import ${args.file}`, () => ctx.api.call('importBundle', { body }));
    const bundle = result as Bundle;
    ctx.say(`${bundle.name} is ready in ${bundle.directory}`);
    return bundle;
  },
});
