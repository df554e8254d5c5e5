/** Routes of building images. */
import * as s from '../schemas.ts';
import type { Route } from './route.ts';

export const imageBuildRoutes = {
  buildImage: {
    method: 'POST',
    url: '/v1/images/build',
    summary: 'Build an image from a recipe in a temporary VM',
    body: s.ImageBuild,
    response: s.Operation,
    status: 202,
  },
  validateRecipe: {
    method: 'POST',
    url: '/v1/images/validate',
    summary: 'Check a recipe and everything it names, without building',
    body: s.ImageBuild,
    response: s.RecipeCheck,
  },
} as const satisfies Record<string, Route>;
