/** Handlers for names of VMs. */

import type { Host } from '../../control/host.ts';
import type { Names } from '../../control/network/dns-service.ts';
import { planDns, setUpDns } from '../../control/network/dns-setup.ts';
import { viewDnsStatus, viewExplanation } from '../../control/network/dns-view.ts';
import type { Handlers } from '../server.ts';

type DnsHandlers = Pick<Handlers, 'dnsStatus' | 'explainDns' | 'planDns' | 'setUpDns'>;

export function dnsHandlers(host: Host, names: Names): DnsHandlers {
  return {
    dnsStatus: async () => await viewDnsStatus(host, names),
    explainDns: async ({ query }) => await viewExplanation(host, names, query.name),
    planDns: async ({ query }) => await planDns(host, query.undo ?? false),
    setUpDns: async ({ body }) =>
      host.operations.start({
        kind: 'dns.setup',
        target: "the host's resolver",
        run: async (progress, signal) => await setUpDns(host, names, body.undo ?? false, progress, signal),
      }),
  };
}
