/**
 * Method and address of every route, without the schemas: a client that imported the contract would
 * load zod, which takes longer than most commands. The types keep this table equal to the contract.
 */
import type { z } from 'zod';
import type { contract, RouteName } from './contract.ts';

type Contract = typeof contract;

export const ADDRESSES = {
  status: ['GET', '/v1/status'],
  shutdown: ['POST', '/v1/shutdown'],
  doctor: ['GET', '/v1/doctor'],
  sudoers: ['GET', '/v1/doctor/sudoers'],
  listVms: ['GET', '/v1/vms'],
  createVm: ['POST', '/v1/vms'],
  showVm: ['GET', '/v1/vms/:name'],
  runVm: ['POST', '/v1/vms/:name/run'],
  holdLease: ['POST', '/v1/leases'],
  endLease: ['DELETE', '/v1/leases/:id'],
  startVm: ['POST', '/v1/vms/:name/start'],
  stopVm: ['POST', '/v1/vms/:name/stop'],
  suspendVm: ['POST', '/v1/vms/:name/suspend'],
  resumeVm: ['POST', '/v1/vms/:name/resume'],
  forkVm: ['POST', '/v1/vms/:name/fork'],
  killVm: ['POST', '/v1/vms/:name/kill'],
  restartVm: ['POST', '/v1/vms/:name/restart'],
  deleteVm: ['DELETE', '/v1/vms/:name'],
  setVm: ['POST', '/v1/vms/:name/set'],
  renameVm: ['POST', '/v1/vms/:name/rename'],
  awakeVm: ['POST', '/v1/vms/:name/awake'],
  waitVm: ['GET', '/v1/vms/:name/wait'],
  sshAccess: ['GET', '/v1/vms/:name/ssh'],
  logs: ['GET', '/v1/vms/:name/logs'],
  exec: ['POST', '/v1/vms/:name/exec'],
  listTrash: ['GET', '/v1/trash'],
  undeleteVm: ['POST', '/v1/trash/:name/restore'],
  emptyTrash: ['POST', '/v1/trash/empty'],
  collectGarbage: ['POST', '/v1/gc'],
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
  dnsStatus: ['GET', '/v1/dns'],
  explainDns: ['GET', '/v1/dns/explain'],
  planDns: ['GET', '/v1/dns/setup'],
  setUpDns: ['POST', '/v1/dns/setup'],
  listStats: ['GET', '/v1/stats'],
  watchStats: ['GET', '/v1/stats/watch'],
  listPorts: ['GET', '/v1/vms/:name/ports'],
  metrics: ['GET', '/metrics'],
  watchEvents: ['GET', '/v1/events'],
  listImages: ['GET', '/v1/images'],
  showImage: ['GET', '/v1/images/:name'],
  showSbom: ['GET', '/v1/images/:name/sbom'],
  deleteImage: ['DELETE', '/v1/images/:name'],
  renameImage: ['POST', '/v1/images/:name/rename'],
  importImage: ['POST', '/v1/images/import'],
  pushImage: ['POST', '/v1/images/:name/push'],
  exportImage: ['POST', '/v1/images/:name/export'],
  pullImage: ['POST', '/v1/images/pull'],
  pruneImages: ['POST', '/v1/images/prune'],
  listTemplates: ['GET', '/v1/templates'],
  warmImage: ['POST', '/v1/templates'],
  coolImage: ['POST', '/v1/templates/remove'],
  diffImages: ['GET', '/v1/image-diff'],
  rebaseVm: ['POST', '/v1/vms/:name/rebase'],
  listDisks: ['GET', '/v1/disks'],
  showDisks: ['GET', '/v1/vms/:name/disks'],
  resizeDisks: ['POST', '/v1/vms/:name/disks/resize'],
  deleteDisk: ['DELETE', '/v1/disks/kept/:name'],
  listSnapshots: ['GET', '/v1/snapshots'],
  importSnapshot: ['POST', '/v1/snapshots/import'],
  showSnapshot: ['GET', '/v1/vms/:name/snapshots/:snapshot'],
  createSnapshot: ['POST', '/v1/vms/:name/snapshots'],
  restoreSnapshot: ['POST', '/v1/vms/:name/snapshots/:snapshot/restore'],
  copySnapshot: ['POST', '/v1/vms/:name/snapshots/:snapshot/copy'],
  diffSnapshot: ['POST', '/v1/vms/:name/snapshots/:snapshot/diff'],
  exportSnapshot: ['POST', '/v1/vms/:name/snapshots/:snapshot/export'],
  deleteSnapshot: ['DELETE', '/v1/vms/:name/snapshots/:snapshot'],
  undoRestore: ['POST', '/v1/vms/:name/undo'],
  showStorage: ['GET', '/v1/storage'],
  initStorage: ['POST', '/v1/storage/init'],
  resizeStorage: ['POST', '/v1/storage/resize'],
  undoStorage: ['POST', '/v1/storage/undo'],
  buildImage: ['POST', '/v1/images/build'],
  validateRecipe: ['POST', '/v1/images/validate'],
} as const satisfies { [K in RouteName]: readonly [Contract[K]['method'], Contract[K]['url']] };

/** What `waitVm` waits without another limit, in `ms`: as long as people are willing to look at a terminal that says nothing. */
export const DEFAULT_WAIT_MS = 60_000;

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
