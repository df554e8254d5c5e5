/** The state of DNS listeners in words. */
import type { DnsListener, DnsSummary } from '../../api/dns.ts';

export function describeListener({ state, address, port, lastError }: DnsListener): string {
  return place(state, `${address} port ${port}`, lastError?.message);
}

export function describeSummary({ state, zone, address, port, vms, problem }: DnsSummary): string {
  const where = place(state, `${address} port ${port}`, problem ?? undefined);
  return state === 'listening' ? `*.${zone} on ${where}, ${vms} ${vms === 1 ? 'VM' : 'VMs'}` : where;
}

function place(state: DnsSummary['state'], where: string, problem: string | undefined): string {
  switch (state) {
    case 'listening':
      return where;
    case 'waiting':
      return `NOT LISTENING, tried again by itself: ${problem ?? where}`;
    case 'off':
      return 'off (dns.enabled = false)';
    case 'stopped':
      return 'stopped';
  }
}
