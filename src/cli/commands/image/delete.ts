/** `banger image delete`: images that no VM and no layer needs. */
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['names...'],
  completes: { names: ['image'] },
  description: 'A VM needs the image it was made from, because it boots with its kernel and initrd.',
  examples: ['image delete dev', 'image rm dev dev-old'],
  async run(ctx, { args }) {
    return await forEachName(ctx, args.names, async (name) => {
      await perform(ctx, `delete ${name}`, () => ctx.api.call('deleteImage', { params: { name } }));
      ctx.say(`${name} is deleted`);
      return { name, deleted: true };
    });
  },
});
