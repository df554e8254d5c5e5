/** Routes of long actions. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import { flag, operationId, type Route } from './route.ts';

export const operationRoutes = {
  listOperations: {
    method: 'GET',
    url: '/v1/operations',
    summary: 'Recent operations, newest first',
    response: z.array(s.Operation),
  },
  showOperation: {
    method: 'GET',
    url: '/v1/operations/:id',
    summary: 'One operation',
    params: operationId,
    response: s.Operation,
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
