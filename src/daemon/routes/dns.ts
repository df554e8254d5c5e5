/** Handlers for names of VMs. */

import type { Host } from '../../control/host.ts';
import type { DnsService } from '../../control/network/dns-service.ts';
import { planDns, setUpDns } from '../../control/network/dns-setup.ts';
import { viewDnsStatus, viewExplanation } from '../../control/network/dns-view.ts';
import type { Handlers } from '../server.ts';

type DnsHandlers = Pick<Handlers, 'dnsStatus' | 'explainDns' | 'planDns' | 'setUpDns'>;

export function dnsHandlers(host: Host, dnsService: DnsService): DnsHandlers {
  return {
    dnsStatus: async () => await viewDnsStatus(host, dnsService),
    explainDns: async ({ query }) => await viewExplanation(host, dnsService, query.name),
    planDns: async ({ query }) => await planDns(host, query.undo ?? false),
    setUpDns: async ({ body }) =>
      host.operations.start({
        kind: 'dns.setup',
        target: "the host's resolver",
        run: async (progress, signal) => await setUpDns(host, dnsService, body.undo ?? false, progress, signal),
      }),
  };
}
