/** What `image build` and `image validate` ask, and the request made of it. */
import { resolve } from 'node:path';
import type { ImageBuild } from '../../api/image-build.ts';
import type { OptionSpecs, OptionValues } from '../command-shape.ts';
import type { Context } from '../context.ts';
import { bundleRef } from './bundle-ref.ts';

export const RECIPE_OPTIONS = {
  name: { type: 'text', short: 'n', placeholder: 'name', help: 'name of the image', default: "the recipe's" },
  from: {
    type: 'text',
    placeholder: 'base',
    completes: ['image', 'bundle', 'directory'],
    help: 'image or bundle to begin with',
    default: "the recipe's, else the default bundle",
  },
  package: { type: 'list', short: 'p', placeholder: 'name', help: 'package to install; may be given again' },
  packages: {
    type: 'list',
    placeholder: 'file',
    completes: ['file'],
    help: 'file that lists packages, one a line; may be given again',
  },
  run: { type: 'list', short: 'r', placeholder: 'line', help: 'line to run in it; may be given again' },
  size: { type: 'size', help: 'size of the root disk', default: "the recipe's, else the base's" },
  allowOutside: { type: 'flag', help: 'let the recipe read files of this host outside its directory' },
  set: { type: 'list', placeholder: 'key=value', help: 'lay a value over the recipe; may be given again' },
} as const satisfies OptionSpecs;

export type RecipeOptionValues = OptionValues<typeof RECIPE_OPTIONS>;

export function recipeRequest(ctx: Context, recipe: string | undefined, options: RecipeOptionValues): ImageBuild {
  return {
    directory: ctx.terminal.cwd,
    ...(recipe === undefined ? {} : { recipe: resolve(ctx.terminal.cwd, recipe) }),
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.from === undefined ? {} : { base: bundleRef(ctx, options.from) }),
    ...(options.package.length > 0 ? { packages: options.package } : {}),
    ...(options.packages.length > 0 ? { packageFiles: options.packages } : {}),
    ...(options.run.length > 0 ? { run: options.run } : {}),
    ...(options.size === undefined ? {} : { sizeBytes: options.size }),
    ...(options.allowOutside ? { allowOutside: true } : {}),
    ...(options.set.length > 0 ? { settings: options.set } : {}),
  };
}
