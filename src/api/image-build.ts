/** Building images: routes and bodies. */
import { z } from 'zod';
import { ImageDigest } from './image.ts';
import { Operation } from './operation.ts';
import type { Route } from './route.ts';

const absolute = z.string().startsWith('/');

export const ImageBuild = z.strictObject({
  recipe: absolute.optional().describe('recipe file; without one the other fields are the recipe'),
  directory: absolute.describe('where relative paths begin that are not from a recipe file'),
  name: z.string().min(1).optional().describe('name of the image; default the recipe’s'),
  base: z.string().min(1).optional().describe('image or bundle to begin with; default the recipe’s'),
  packages: z.array(z.string()).optional().describe('added to those of the recipe'),
  packageFiles: z.array(z.string().min(1)).optional().describe('files with more of them, one a line'),
  run: z.array(z.string().min(1)).optional().describe('lines run after those of the recipe'),
  sizeBytes: z.int().positive().optional().describe('size of the root disk'),
  settings: z.array(z.string()).optional().describe('`key=value` texts laid over the recipe, values in TOML'),
  allowOutside: z.boolean().optional().describe('let the recipe read files outside its directory'),
  noCache: z.boolean().optional().describe('do every step again'),
  keep: z.boolean().optional().describe('leave the VM when a step fails'),
  detach: z.boolean().optional().describe('go on when the client leaves'),
  authFile: absolute.optional().describe('credentials of the registry that an OCI image to begin with comes from'),
  insecure: z.boolean().optional().describe('speak to that registry without TLS if need be'),
});

/** Result of an `image.build` operation. */
export const ImageBuilt = z.object({
  id: z.string().describe('id of the image'),
  name: z.string(),
  base: z.string(),
  digest: ImageDigest,
  sizeBytes: z.number().describe('apparent size of the root file system'),
  built: z.boolean().describe('false when nothing it is made from had changed'),
  reason: z.string().describe('why it was built or kept, as a sentence'),
  steps: z.array(
    z.object({
      step: z.string(),
      cached: z.boolean().describe('whether it came from a layer'),
      durationMs: z.number(),
    }),
  ),
});

export const RecipeCheck = z.object({
  name: z.string(),
  base: z.string(),
  outside: z.array(z.string()).describe('what it names outside its directory, which was allowed'),
  steps: z.array(z.object({ step: z.string(), cached: z.boolean() })),
});

export type ImageBuild = z.infer<typeof ImageBuild>;
export type ImageBuilt = z.infer<typeof ImageBuilt>;
export type RecipeCheck = z.infer<typeof RecipeCheck>;

export const imageBuildRoutes = {
  buildImage: {
    method: 'POST',
    url: '/v1/images/build',
    summary: 'Build an image from a recipe in a temporary VM',
    body: ImageBuild,
    response: Operation,
    status: 202,
  },
  validateRecipe: {
    method: 'POST',
    url: '/v1/images/validate',
    summary: 'Check a recipe and everything it names, without building',
    body: ImageBuild,
    response: RecipeCheck,
  },
} as const satisfies Record<string, Route>;
