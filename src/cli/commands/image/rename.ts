/** `banger image rename`: another name; VMs made from the image go on with it. */
import type { Image } from '../../../api/image.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['name', 'new-name'],
  completes: { name: ['image'] },
  examples: ['image rename dev dev-old'],
  async run(ctx, { args }) {
    const body = { name: args['new-name'] };
    const { result } = await perform(ctx, `rename ${args.name}`, () =>
      ctx.api.call('renameImage', { params: { name: args.name }, body }),
    );
    ctx.say(`${args.name} is called ${body.name} now`);
    return result as Image;
  },
});
