/** Every route of bangerd's HTTP API: one table that validates requests, types the client and becomes OpenAPI. */
import { bundleRoutes } from './routes/bundle.ts';
import { imageBuildRoutes } from './routes/image-build.ts';
import { operationRoutes } from './routes/operation.ts';
import type { Route } from './routes/route.ts';
import { systemRoutes } from './routes/system.ts';
import { vmRoutes } from './routes/vm.ts';

export type { Route } from './routes/route.ts';

export const contract = {
  ...systemRoutes,
  ...vmRoutes,
  ...operationRoutes,
  ...bundleRoutes,
  ...imageBuildRoutes,
} as const satisfies Record<string, Route>;

export type RouteName = keyof typeof contract;
