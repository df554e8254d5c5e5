/** `banger image validate`: whether a recipe and everything it names is right, and what a build would do. */
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { RECIPE_OPTIONS, recipeRequest } from '../../shared/recipe-options.ts';

export default defineCommand({
  positionals: ['[recipe]'],
  completes: { recipe: ['file'] },
  options: RECIPE_OPTIONS,
  description:
    'Nothing is built. A recipe is TOML; its keys are described in docs/images.md and docs/recipe.schema.json.',
  examples: ['image validate dev.toml', 'image validate dev.toml --set size=4GiB --json'],
  run: (ctx, { args, options }) => ctx.api.call('validateRecipe', { body: recipeRequest(ctx, args.recipe, options) }),
  print({ name, base, outside, steps }, ctx) {
    const rows = steps.map(({ step, cached }) => [step, cached ? 'a layer is there' : 'to be done']);
    const reads = outside.length === 0 ? '' : `\nIt reads files outside its directory: ${outside.join(', ')}`;
    const head = `${name}, from ${base}: the recipe is right.${reads}`;
    return rows.length === 0 ? head : `${head}\n${renderTable(['STEP', 'STATE'], rows, ctx.paint)}`;
  },
});
