/** Every route of bangerd's HTTP API: one table that validates requests, types the client and becomes OpenAPI. */
import { bundleRoutes } from './bundle.ts';
import { diskRoutes } from './disk.ts';
import { dnsRoutes } from './dns.ts';
import { eventRoutes } from './event.ts';
import { imageRoutes } from './image.ts';
import { imageBuildRoutes } from './image-build.ts';
import { leaseRoutes } from './lease.ts';
import { leftoverRoutes } from './leftover.ts';
import { operationRoutes } from './operation.ts';
import type { Route } from './route.ts';
import { snapshotRoutes } from './snapshot.ts';
import { statsRoutes } from './stats.ts';
import { storageRoutes } from './storage.ts';
import { systemRoutes } from './system.ts';
import { vmRoutes } from './vm-routes.ts';

export type { Route } from './route.ts';

export const contract = {
  ...systemRoutes,
  ...vmRoutes,
  ...leaseRoutes,
  ...leftoverRoutes,
  ...operationRoutes,
  ...bundleRoutes,
  ...dnsRoutes,
  ...statsRoutes,
  ...eventRoutes,
  ...imageRoutes,
  ...diskRoutes,
  ...snapshotRoutes,
  ...storageRoutes,
  ...imageBuildRoutes,
} as const satisfies Record<string, Route>;

export type RouteName = keyof typeof contract;
