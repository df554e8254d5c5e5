/** What happened, as it is told to whoever follows: a stable form, new members and types may be added. */
import { z } from 'zod';
import { OperationState } from './operation.ts';
import { flag, type Route } from './route.ts';
import { LastEnd, VmState } from './vm.ts';

const base = {
  seq: z.int().describe('counts up by one from the start of the daemon'),
  at: z.iso.datetime(),
};

const vm = { vm: z.string().describe('name of the VM'), id: z.string().describe('id of the VM') };

const snapshot = z.string().describe('name of the snapshot');

const operation = {
  operation: z.string().describe('id of the operation'),
  kind: z.string().describe('e.g. `vm.start`'),
  target: z.string().describe('name of the thing worked on'),
};

export const Event = z.discriminatedUnion('type', [
  z.object({ ...base, type: z.literal('vm.created'), ...vm, state: VmState }),
  z.object({
    ...base,
    type: z.literal('vm.state'),
    ...vm,
    from: VmState,
    to: VmState,
    reason: z.string().nullable().describe('why it is `failed` or `paused`, in a sentence'),
  }),
  z.object({
    ...base,
    type: z.literal('vm.started-over'),
    ...vm,
    reason: z.string().describe('why it was taken for dead, in words that follow its name'),
  }),
  z.object({
    ...base,
    type: z.literal('vm.agent-troubled'),
    ...vm,
    reason: z.string().describe('why its agent cannot be used, in words that follow its name'),
  }),
  z.object({
    ...base,
    type: z.literal('vm.process'),
    ...vm,
    state: z.enum(['running', 'waiting', 'ended', 'failed']),
    detail: z.string().describe('how the process of its OCI image ended, or why it could not begin; as the guest says'),
  }),
  z.object({
    ...base,
    type: z.literal('vm.health'),
    ...vm,
    state: z.enum(['starting', 'healthy', 'unhealthy']),
    detail: z.string().describe('how the HEALTHCHECK of its OCI image ended, and what it said; as the guest says'),
  }),
  z.object({
    ...base,
    type: z.literal('vm.not-warm'),
    vm: vm.vm,
    reason: z.string().describe('why it boots although there are templates of its image'),
  }),
  z.object({
    ...base,
    type: z.literal('vm.ready'),
    ...vm,
    readyMs: z.number().describe('milliseconds since the start was asked for'),
    failedUnits: z.array(z.string()).describe('units of its init that failed while it booted'),
  }),
  z.object({
    ...base,
    type: z.literal('vm.ended'),
    ...vm,
    kind: LastEnd.shape.kind,
    reason: z.string().describe('what nobody wanted, in a sentence'),
  }),
  z.object({ ...base, type: z.literal('vm.renamed'), ...vm, from: z.string() }),
  z.object({
    ...base,
    type: z.literal('vm.changed'),
    ...vm,
    fields: z.array(z.string()).describe('settings that have another value now'),
  }),
  z.object({ ...base, type: z.literal('vm.deleted'), ...vm }),
  z.object({ ...base, type: z.literal('snapshot.created'), ...vm, snapshot }),
  z.object({ ...base, type: z.literal('snapshot.restored'), ...vm, snapshot }),
  z.object({ ...base, type: z.literal('snapshot.deleted'), ...vm, snapshot }),
  z.object({ ...base, type: z.literal('operation.begun'), ...operation }),
  z.object({
    ...base,
    type: z.literal('operation.ended'),
    ...operation,
    state: OperationState,
    durationMs: z.number(),
    error: z.string().nullable().describe('why it failed, in a sentence'),
  }),
  z.object({
    ...base,
    type: z.literal('dropped'),
    count: z.int().describe('events that were not sent because this reader was slow, just before the next one'),
  }),
]);

export type Event = z.infer<typeof Event>;

export const eventRoutes = {
  watchEvents: {
    method: 'GET',
    url: '/v1/events',
    summary: 'What happened lately and, followed, what happens: an `Event` a line',
    query: z.object({
      follow: flag.describe('go on with what comes'),
      since: z.iso.datetime().optional().describe('nothing older than this'),
    }),
    streams: 'application/x-ndjson',
  },
} as const satisfies Record<string, Route>;
