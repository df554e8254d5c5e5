/** `banger dns status`: the zone, who answers for it, its records; or one name followed link by link. */
import type { DnsExplanation, DnsListener, DnsStatus } from '../../../api/dns.ts';
import { defineCommand } from '../../command.ts';
import { renderHint } from '../../output/error.ts';
import type { Paint } from '../../output/paint.ts';
import { renderFields, renderTable } from '../../output/table.ts';
import { describeListener } from '../../shared/dns-text.ts';

const EXIT_BROKEN = 1;

type Shown = { status: DnsStatus } | { explanation: DnsExplanation };

export default defineCommand({
  options: {
    explain: {
      type: 'text',
      placeholder: 'NAME',
      completes: ['vm'],
      help: 'follow one name from its record to a lookup on this host; the exit status is 1 when a link is broken',
    },
  },
  examples: ['dns status', 'dns status --explain web', 'dns status --json'],
  async run(ctx, { options }) {
    if (options.explain === undefined) return await ctx.api.call('dnsStatus', {});
    const explanation = await ctx.api.call('explainDns', { query: { name: options.explain } });
    if (explanation.links.some(({ ok }) => !ok)) ctx.status = EXIT_BROKEN;
    return explanation;
  },
  print: (data, ctx) => render('links' in data ? { explanation: data } : { status: data }, ctx.paint),
});

function render(shown: Shown, paint: Paint): string {
  return 'status' in shown ? renderStatus(shown.status, paint) : renderExplanation(shown.explanation, paint);
}

function renderStatus(status: DnsStatus, paint: Paint): string {
  const { host, guests, resolver, records } = status;
  const told = resolver.setUp ? 'it asks banger for this zone' : 'it does not know this zone: banger dns setup';
  const fields: [string, string][] = [
    ['zone', `${status.zone}, and ${status.reverseZones.join(', ')}`],
    ['serial', String(status.serial)],
    ['listener', describeListener(host)],
    ['queries', counts(host.queries)],
    ['for VMs', guests.state === 'stopped' ? 'starts with the first VM' : describeListener(guests)],
    ['queries of VMs', counts(guests.queries)],
    ['passed on', counts(guests.forwarded)],
    ['resolver', `${resolver.kind}; ${told}`],
    ...lastError(host, 'last error'),
    ...(guests.state === 'stopped' ? [] : lastError(guests, 'last error for VMs')),
  ];
  const rows = records.map(({ name, type, data }) => [name, type, data]);
  return `${renderFields(fields, paint)}\n\n${renderTable(['NAME', 'TYPE', 'DATA'], rows, paint)}`;
}

function lastError({ lastError: error }: DnsListener, label: string): [string, string][] {
  return error === null ? [] : [[label, `${error.message} (${error.at})`]];
}

function counts(values: Record<string, number>): string {
  const seen = Object.entries(values).filter(([, count]) => count > 0);
  return seen.length === 0 ? 'none' : seen.map(([result, count]) => `${count} ${result}`).join(', ');
}

function renderExplanation({ links }: DnsExplanation, paint: Paint): string {
  const width = Math.max(...links.map(({ link }) => link.length));
  return links
    .flatMap(({ link, ok, message, hint }) => [
      `${ok ? paint('green', 'ok    ') : paint('red', 'BROKEN')}  ${link.padEnd(width)}  ${message}`,
      ...(hint === undefined ? [] : [renderHint(hint, paint, `        ${' '.repeat(width)}  `)]),
    ])
    .join('\n');
}
