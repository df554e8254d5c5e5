/** `banger events`: what happened lately to VMs and operations, and what happens. */
import type { Event } from '../../../api/event.ts';
import { readLines } from '../../../client/watch.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { plainData } from '../../output/plain-text.ts';

export default defineCommand({
  options: {
    follow: { type: 'flag', short: 'f', help: 'go on with what comes, until Ctrl-C' },
    since: { type: 'duration', help: 'only what is not older than this, e.g. 10m' },
  },
  description: 'The daemon remembers the last 1000 events since it was started. With --json, one event is one line.',
  examples: [
    'events',
    'events --follow --json',
    'events -f --json | jq -c \'select(.type == "vm.state")\'',
    'events --since 10m',
  ],
  async run(ctx, { options }) {
    const leave = new AbortController();
    void ctx.interrupts().first.then(() => leave.abort());
    if (options.follow) ctx.terminal.endWithReader?.();
    const query = {
      ...(options.follow ? { follow: true } : {}),
      ...(options.since === undefined ? {} : { since: new Date(Date.now() - options.since).toISOString() }),
    };
    for await (const event of readLines(ctx.api, 'watchEvents', { query }, leave.signal)) {
      ctx.print(ctx.json ? JSON.stringify(event) : renderEvent(plainData(event), ctx.paint));
    }
  },
});

export function renderEvent(event: Event, paint: Paint): string {
  return `${paint('dim', event.at.replace(/\.\d+Z$/, 'Z'))}  ${describe(event)}`;
}

function describe(event: Event): string {
  switch (event.type) {
    case 'vm.created':
      return `${event.vm}: created`;
    case 'vm.state':
      return `${event.vm}: ${event.from} -> ${event.to}${event.reason === null ? '' : `: ${firstLine(event.reason)}`}`;
    case 'vm.started-over':
      return `${event.vm}: ${event.reason} while it was starting, and is started over`;
    case 'vm.agent-troubled':
      return `${event.vm}: ${firstLine(event.reason)}; it is served over SSH`;
    case 'vm.health':
    case 'vm.process':
      return `${event.vm}: its process is ${event.state}${event.detail === '' ? '' : `: ${firstLine(event.detail)}`}`;
    case 'vm.not-warm':
      return `${event.vm}: boots, as its template is of no use: ${firstLine(event.reason)}`;
    case 'vm.ready':
      return `${event.vm}: ready after ${formatDuration(event.readyMs)}${event.failedUnits.length === 0 ? '' : `, failed: ${event.failedUnits.join(', ')}`}`;
    case 'vm.ended':
      return `${event.vm}: ${firstLine(event.reason)}`;
    case 'vm.renamed':
      return `${event.vm}: renamed, was ${event.from}`;
    case 'vm.changed':
      return `${event.vm}: changed ${event.fields.join(', ')}`;
    case 'vm.deleted':
      return `${event.vm}: deleted`;
    case 'snapshot.created':
      return `${event.vm}: snapshot ${event.snapshot} taken`;
    case 'snapshot.restored':
      return `${event.vm}: snapshot ${event.snapshot} restored`;
    case 'snapshot.deleted':
      return `${event.vm}: snapshot ${event.snapshot} deleted`;
    case 'operation.begun':
      return `${event.target}: ${event.kind} begun (operation ${event.operation})`;
    case 'operation.ended':
      return `${event.target}: ${event.kind} ${event.state} after ${formatDuration(event.durationMs)}${event.error === null ? '' : `: ${firstLine(event.error)}`}`;
    case 'dropped':
      return `${event.count} events are not shown: they came faster than they were read`;
    default:
      return unknownEvent(event);
  }
}

/** A newer daemon may tell of more than this program knows. */
function unknownEvent(event: { type: string }): string {
  return `${event.type} ${JSON.stringify(event)}`;
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? '';
}
