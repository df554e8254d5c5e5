/** Names of VMs as the API shows them. */
import type { DnsExplanation, DnsListener, DnsStatus, DnsSummary } from '../../api/dns.ts';
import type { Config } from '../../config/schema.ts';
import { explainName } from '../../dns/explain.ts';
import type { ListenerStatus } from '../../dns/listener.ts';
import type { QueryCounts } from '../../dns/server.ts';
import type { DnsService } from './dns-service.ts';
import { lookAtResolver, type ResolverHost } from './dns-setup.ts';

/** What the daemon's own status says of them. */
export function viewDnsSummary({ dns }: Pick<Config, 'dns'>, { zone, server }: DnsService): DnsSummary {
  const { address, port, lastError } = server;
  const state = dns.enabled ? server.state : 'off';
  const problem = state === 'waiting' ? (lastError?.message ?? 'No reason is known.') : null;
  return { state, zone: zone.name, address, port, vms: zone.size, problem };
}

export async function viewDnsStatus(host: ResolverHost, dnsService: DnsService): Promise<DnsStatus> {
  const { zone, server, guests } = dnsService;
  const { enabled } = host.config.dns;
  const { resolver, setUp } = await lookAtResolver(host);
  return {
    zone: zone.name,
    reverseZones: [...zone.reverseNames],
    serial: zone.serial,
    vms: zone.size,
    host: viewListener(enabled, server),
    guests: { ...viewListener(enabled, guests), forwarded: { ...guests.forwarded }, inFlight: guests.inFlight },
    records: zone.records(),
    resolver: { kind: resolver.kind, reason: resolver.reason, setUp },
  };
}

export async function viewExplanation(
  host: ResolverHost,
  { zone, server }: DnsService,
  name: string,
): Promise<DnsExplanation> {
  if (!host.config.dns.enabled) {
    const hint = 'Set dns.enabled = true, then restart the daemon: banger daemon stop && banger daemon start';
    const message = 'Names are switched off (dns.enabled = false).';
    return { name, links: [{ link: 'listener', ok: false, message, hint }] };
  }
  const { resolver, setUp } = await lookAtResolver(host);
  return { name, links: await explainName({ name, zone, server, resolver, setUp }) };
}

function viewListener(enabled: boolean, status: ListenerStatus & { queries: QueryCounts }): DnsListener {
  const { address, port, state, tcpConnections, holder, lastError, queries } = status;
  return {
    state: enabled ? state : 'off',
    address,
    port,
    tcpConnections,
    holder: holder ?? null,
    lastError: lastError ?? null,
    queries,
  };
}
