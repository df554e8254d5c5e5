/** Every route of bangerd's HTTP API: one table that validates requests, types the client and becomes OpenAPI. */
import { bundleRoutes } from './routes/bundle.ts';
import { diskRoutes } from './routes/disk.ts';
import { dnsRoutes } from './routes/dns.ts';
import { eventRoutes } from './routes/event.ts';
import { imageRoutes } from './routes/image.ts';
import { imageBuildRoutes } from './routes/image-build.ts';
import { leftoverRoutes } from './routes/leftover.ts';
import { operationRoutes } from './routes/operation.ts';
import type { Route } from './routes/route.ts';
import { statsRoutes } from './routes/stats.ts';
import { storageRoutes } from './routes/storage.ts';
import { systemRoutes } from './routes/system.ts';
import { vmRoutes } from './routes/vm.ts';

export type { Route } from './routes/route.ts';

export const contract = {
  ...systemRoutes,
  ...vmRoutes,
  ...leftoverRoutes,
  ...operationRoutes,
  ...bundleRoutes,
  ...dnsRoutes,
  ...statsRoutes,
  ...eventRoutes,
  ...imageRoutes,
  ...diskRoutes,
  ...storageRoutes,
  ...imageBuildRoutes,
} as const satisfies Record<string, Route>;

export type RouteName = keyof typeof contract;
