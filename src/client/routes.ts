/**
 * Method and address of every route, without the schemas: a client that imported the contract would
 * load zod, which takes longer than most commands. The types keep this table equal to the contract.
 */
import type { z } from 'zod';
import type { contract, RouteName } from '../api/contract.ts';

type Contract = typeof contract;

export const ROUTES = {
  status: ['GET', '/v1/status'],
  shutdown: ['POST', '/v1/shutdown'],
  doctor: ['GET', '/v1/doctor'],
  sudoers: ['GET', '/v1/doctor/sudoers'],
  listVms: ['GET', '/v1/vms'],
  createVm: ['POST', '/v1/vms'],
  showVm: ['GET', '/v1/vms/:name'],
  startVm: ['POST', '/v1/vms/:name/start'],
  stopVm: ['POST', '/v1/vms/:name/stop'],
  killVm: ['POST', '/v1/vms/:name/kill'],
  restartVm: ['POST', '/v1/vms/:name/restart'],
  deleteVm: ['DELETE', '/v1/vms/:name'],
  sshAccess: ['GET', '/v1/vms/:name/ssh'],
  logs: ['GET', '/v1/vms/:name/logs'],
  exec: ['POST', '/v1/vms/:name/exec'],
  listOperations: ['GET', '/v1/operations'],
  showOperation: ['GET', '/v1/operations/:id'],
  operationEvents: ['GET', '/v1/operations/:id/events'],
  cancelOperation: ['POST', '/v1/operations/:id/cancel'],
  listBundles: ['GET', '/v1/bundles'],
  buildBundle: ['POST', '/v1/bundles/build'],
  showBundle: ['GET', '/v1/bundles/show'],
  useBundle: ['POST', '/v1/bundles/use'],
  verifyBundle: ['POST', '/v1/bundles/verify'],
  importBundle: ['POST', '/v1/bundles/import'],
  exportBundle: ['POST', '/v1/bundles/export'],
  adoptBundle: ['POST', '/v1/bundles/adopt'],
  buildImage: ['POST', '/v1/images/build'],
  validateRecipe: ['POST', '/v1/images/validate'],
} as const satisfies { [K in RouteName]: readonly [Contract[K]['method'], Contract[K]['url']] };

/** Routes that answer with a stream instead of one JSON body. */
export type StreamRoute = {
  [K in RouteName]: Contract[K] extends { streams: string } ? K : never;
}[RouteName];

export type JsonRoute = Exclude<RouteName, StreamRoute>;

/** What a route answers; undefined where the contract names no body. */
export type Answer<K extends RouteName> = Contract[K] extends { response: infer R extends z.ZodType }
  ? z.output<R>
  : undefined;

/** What a route is called with: exactly the parts its contract names. */
export type CallArgs<K extends RouteName> = ParamsPart<K> & QueryPart<K> & BodyPart<K> & { signal?: AbortSignal };

type ParamsPart<K extends RouteName> = Contract[K] extends { params: infer P extends z.ZodType }
  ? { params: z.output<P> }
  : unknown;

type QueryPart<K extends RouteName> = Contract[K] extends { query: infer Q extends z.ZodType }
  ? { query?: z.output<Q> }
  : unknown;

type BodyPart<K extends RouteName> = Contract[K] extends { body: infer B extends z.ZodType }
  ? { body: z.input<B> }
  : unknown;
