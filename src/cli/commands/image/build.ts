/** `banger image build`: an image made from a recipe, or from what the command line says, in a temporary VM. */
import type { ImageBuilt } from '../../../api/image-build.ts';
import { defineCommand } from '../../command.ts';
import { REGISTRY_OPTIONS, registryAccess } from '../../shared/oci.ts';
import { perform } from '../../shared/operations.ts';
import { RECIPE_OPTIONS, recipeRequest } from '../../shared/recipe-options.ts';

export default defineCommand({
  positionals: ['[recipe]'],
  completes: { recipe: ['file'] },
  options: {
    ...RECIPE_OPTIONS,
    ...REGISTRY_OPTIONS,
    cache: { type: 'off', help: 'do every step again' },
    keep: { type: 'flag', short: 'k', help: 'leave the VM to look into when a step fails' },
    detach: { type: 'flag', short: 'd', help: 'leave it to the daemon and return at once' },
    verbose: { type: 'flag', short: 'v', help: "show the guest's output" },
  },
  description:
    'Steps are kept as layers: a build begins after the last step that has not changed. Ctrl-C stops it and removes what it made.',
  examples: [
    'image build dev.toml',
    "image build --name dev --package jq --package htop --run 'echo hello > /etc/motd'",
    'image build dev.toml --set size=4GiB --detach',
  ],
  async run(ctx, { args, options }) {
    const body = {
      ...recipeRequest(ctx, args.recipe, options),
      ...registryAccess(ctx, options),
      ...(options.cache ? { noCache: true } : {}),
      ...(options.keep ? { keep: true } : {}),
      ...(options.detach ? { detach: true } : {}),
    };
    if (options.detach) {
      const operation = await ctx.api.call('buildImage', { body });
      ctx.say(`The build goes on by itself. Follow it with: banger operation wait ${operation.id}`);
      return operation;
    }
    const { result } = await perform(ctx, 'image build', () => ctx.api.call('buildImage', { body }), {
      output: options.verbose ? 'all' : 'none',
    });
    const image = result as ImageBuilt;
    ctx.say(
      image.built
        ? `${image.name} is built. Create a VM from it: banger run NAME --image ${image.name}`
        : `${image.name} is up to date: ${image.reason.charAt(0).toLowerCase()}${image.reason.slice(1)}`,
    );
    return image;
  },
});
