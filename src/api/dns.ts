/** Names of VMs: routes and bodies. */
import { z } from 'zod';
import { Operation } from './operation.ts';
import { flag, type Route } from './route.ts';

const ListenerState = z
  .enum(['off', 'stopped', 'listening', 'waiting'])
  .describe('`off`: dns.enabled is false; `waiting`: the port cannot be opened for now and is tried again');

export const DnsListener = z.object({
  state: ListenerState,
  address: z.string(),
  port: z.int(),
  tcpConnections: z.int(),
  holder: z.string().nullable().describe('process that holds the port while `waiting`, where it could be found'),
  lastError: z
    .object({ at: z.iso.datetime(), message: z.string() })
    .nullable()
    .describe('what last went wrong; it may be over'),
  queries: z.record(z.string(), z.int()).describe('queries since the daemon started, by how they ended'),
});

export const DnsSummary = z.object({
  state: ListenerState,
  zone: z.string(),
  address: z.string(),
  port: z.int(),
  vms: z.int().describe('VMs with records'),
  problem: z.string().nullable().describe('why it does not listen, if so, in a sentence'),
});

export const DnsStatus = z.object({
  zone: z.string(),
  reverseZones: z.array(z.string()),
  serial: z.int().describe('grows with each change'),
  vms: z.int().describe('VMs with records'),
  host: DnsListener.describe('the server for this host'),
  guests: DnsListener.extend({
    forwarded: z.record(z.string(), z.int()).describe('queries passed on to the host’s resolvers, by outcome'),
    inFlight: z.int(),
  }).describe('the resolver for VMs; `stopped` until the first VM has a link'),
  records: z.array(z.object({ name: z.string(), type: z.string(), data: z.string() })),
  resolver: z.object({
    kind: z.string(),
    reason: z.string().describe('how it was recognised, as a sentence'),
    setUp: z.boolean().describe('whether it has been told to ask banger for the zone'),
  }),
});

export const DnsExplanation = z.object({
  name: z.string(),
  links: z
    .array(
      z.object({
        link: z.enum(['name', 'record', 'listener', 'resolver', 'lookup']),
        ok: z.boolean(),
        message: z.string(),
        hint: z.string().optional(),
      }),
    )
    .describe('from the record outwards; everything behind a broken one is left out'),
});

const DnsSetup = z.strictObject({
  undo: z.boolean().optional().describe('take back what an earlier setup wrote'),
});

/** What `setUpDns` would do. */
export const DnsPlan = z.object({
  summary: z.string(),
  steps: z.array(
    z.discriminatedUnion('do', [
      z.object({ do: z.literal('write'), path: z.string(), content: z.string() }),
      z.object({ do: z.literal('remove'), path: z.string() }),
      z.object({ do: z.literal('run'), argv: z.array(z.string()), optional: z.literal(true).optional() }),
    ]),
  ),
  text: z.string().describe('the steps for people, each file whole'),
  script: z.string().describe('the steps as a shell script for root'),
});

/** Result of a `dns.setup` operation. */
export const DnsSetupResult = z.object({
  summary: z.string(),
  changed: z.boolean().describe('false when everything was as it should be'),
  proof: z
    .object({ name: z.string(), address: z.string() })
    .nullable()
    .describe('the name that was looked up through the system and what came back; null after an undo'),
});

export type DnsListener = z.infer<typeof DnsListener>;
export type DnsSummary = z.infer<typeof DnsSummary>;
export type DnsStatus = z.infer<typeof DnsStatus>;
export type DnsExplanation = z.infer<typeof DnsExplanation>;
export type DnsPlan = z.infer<typeof DnsPlan>;
export type DnsSetupResult = z.infer<typeof DnsSetupResult>;

export const dnsRoutes = {
  dnsStatus: {
    method: 'GET',
    url: '/v1/dns',
    summary: 'Names of VMs: zone, listeners, records',
    response: DnsStatus,
  },
  explainDns: {
    method: 'GET',
    url: '/v1/dns/explain',
    summary: 'Follow a name from its record to a lookup on this host',
    query: z.object({ name: z.string().min(1).max(255).describe('name of a VM, with the zone or without') }),
    response: DnsExplanation,
  },
  planDns: {
    method: 'GET',
    url: '/v1/dns/setup',
    summary: 'What telling the host’s resolver about the zone would change',
    query: z.object({ undo: flag.describe('what taking that back would change') }),
    response: DnsPlan,
  },
  setUpDns: {
    method: 'POST',
    url: '/v1/dns/setup',
    summary: 'Tell the host’s resolver about the zone, or take that back',
    body: DnsSetup,
    response: Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
