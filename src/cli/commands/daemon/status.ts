/** `banger daemon status`: whether the daemon runs, and how. It starts none. */
import type { DaemonStatus } from '../../../api/system.ts';
import { formatDuration, formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { renderFields } from '../../output/table.ts';
import { describeSummary } from '../../shared/dns-text.ts';

export default defineCommand({
  description: 'The exit status is 3 when no daemon runs.',
  examples: ['daemon status', 'daemon status --json'],
  run: (ctx) => ctx.runningApi.call('status', {}),
  print(status, ctx) {
    const fields: [string, string][] = [
      ['version', status.version],
      ['process', String(status.pid)],
      ['uptime', formatDuration(Math.max(Date.now() - Date.parse(status.startedAt), 0))],
      ['VMs', `${status.vms.total}, ${status.vms.running} of them running`],
      ...(status.standby ? [describeStandby(status.standby)] : []),
      ['operations', `${status.operations} running`],
      ['names', describeSummary(status.dns)],
      ['memory', formatSize(status.rssBytes)],
      ['store', describeStore(status.store)],
      ['addresses', status.pool],
      ['socket', status.socket],
      ['state', status.stateDirectory],
    ];
    return renderFields(fields, ctx.paint);
  },
});

function describeStandby({ ready, wanted }: NonNullable<DaemonStatus['standby']>): [string, string] {
  return ['pool', `${ready} of ${wanted} guests stand ready for new VMs`];
}

function describeStore({ freeBytes, sizeBytes, state }: DaemonStatus['store']): string {
  const room = `${formatSize(freeBytes)} of ${formatSize(sizeBytes)} free`;
  const warnings = { ok: '', low: '; nearly full', full: '; too full to start a VM' };
  return `${room}${warnings[state]}`;
}
