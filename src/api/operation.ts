/** Long actions and how they fail: routes and bodies. */
import { z } from 'zod';
import { flag, type Route } from './route.ts';

export const Problem = z.object({
  code: z.string().describe('stable error code'),
  message: z.string(),
  hint: z.string().optional().describe('the next command'),
  details: z.record(z.string(), z.unknown()).optional(),
  // RFC 9457 members, so that generic clients understand it too
  type: z.string(),
  title: z.string(),
  status: z.int(),
});

export const OperationState = z.enum(['running', 'succeeded', 'failed', 'cancelled', 'interrupted']);

export const Operation = z.object({
  id: z.string(),
  kind: z.string().describe('e.g. `vm.start`, `bundle.build`'),
  target: z.string().describe('name of the thing worked on'),
  state: OperationState,
  step: z.string().nullable().describe('what it does now, as a phrase for people'),
  createdAt: z.iso.datetime(),
  finishedAt: z.iso.datetime().nullable(),
  result: z.unknown().optional().describe('what the action returned, e.g. the VM'),
  error: Problem.nullable(),
  joined: z.boolean().optional().describe('true when the request found this operation already running'),
});

export const OperationEvent = z.discriminatedUnion('type', [
  z.object({ type: z.literal('step'), step: z.string(), label: z.string(), atMs: z.number() }),
  z.object({
    type: z.literal('progress'),
    label: z.string(),
    detail: z.string().optional(),
    done: z.number().optional(),
    total: z.number().optional(),
    atMs: z.number(),
  }),
  z.object({ type: z.literal('log'), line: z.string(), atMs: z.number() }),
  z.object({ type: z.literal('warning'), message: z.string(), atMs: z.number() }),
  z.object({ type: z.literal('done'), operation: Operation }),
]);

export type Problem = z.infer<typeof Problem>;
export type Operation = z.infer<typeof Operation>;
export type OperationState = z.infer<typeof OperationState>;
export type OperationEvent = z.infer<typeof OperationEvent>;

const operationId = z.object({ id: z.string().min(1) });

export const operationRoutes = {
  listOperations: {
    method: 'GET',
    url: '/v1/operations',
    summary: 'Recent operations, newest first',
    response: z.array(Operation),
  },
  showOperation: {
    method: 'GET',
    url: '/v1/operations/:id',
    summary: 'One operation',
    params: operationId,
    response: Operation,
  },
  operationEvents: {
    method: 'GET',
    url: '/v1/operations/:id/events',
    summary: 'Events of an operation, from its beginning to its end',
    params: operationId,
    query: z.object({ follow: flag.describe('wait for what is still to happen; default yes') }),
    streams: 'application/x-ndjson',
  },
  cancelOperation: {
    method: 'POST',
    url: '/v1/operations/:id/cancel',
    params: operationId,
    summary: 'Undo what an operation did so far, unless others wait for it too',
    response: z.object({ cancelled: z.boolean(), watchers: z.int().describe('other clients that wait for it') }),
  },
} as const satisfies Record<string, Route>;
