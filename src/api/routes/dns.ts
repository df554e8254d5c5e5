/** Routes of VM names. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import { flag, type Route } from './route.ts';

export const dnsRoutes = {
  dnsStatus: {
    method: 'GET',
    url: '/v1/dns',
    summary: 'Names of VMs: zone, listeners, records',
    response: s.DnsStatus,
  },
  explainDns: {
    method: 'GET',
    url: '/v1/dns/explain',
    summary: 'Follow a name from its record to a lookup on this host',
    query: z.object({ name: z.string().min(1).max(255).describe('name of a VM, with the zone or without') }),
    response: s.DnsExplanation,
  },
  planDns: {
    method: 'GET',
    url: '/v1/dns/setup',
    summary: 'What telling the host’s resolver about the zone would change',
    query: z.object({ undo: flag.describe('what taking that back would change') }),
    response: s.DnsPlan,
  },
  setUpDns: {
    method: 'POST',
    url: '/v1/dns/setup',
    summary: 'Tell the host’s resolver about the zone, or take that back',
    body: s.DnsSetup,
    response: s.Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
