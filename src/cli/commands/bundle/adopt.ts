/** `banger bundle adopt`: a bundle.json for a directory that was put together by hand. */
import { resolve } from 'node:path';
import type { Bundle } from '../../../api/bundle.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['directory'],
  completes: { directory: ['directory'] },
  description: 'The files are taken by their names, with the checksums they have now.',
  examples: ['bundle adopt ./my-bundle'],
  async run(ctx, { args }) {
    const body = { directory: resolve(ctx.terminal.cwd, args.directory) };
    const { result } = await perform(ctx, `adopt ${args.directory}`, () => ctx.api.call('adoptBundle', { body }));
    const bundle = result as Bundle;
    ctx.say(`${bundle.directory} has a bundle.json now`);
    return bundle;
  },
});
